"""How a model is trained: architectures, the loop, checkpoints, and what a training depends on."""
