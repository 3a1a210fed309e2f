"""How a model is measured: metrics, integrity checks, test images and figures."""
