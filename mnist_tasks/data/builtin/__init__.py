"""MNIST as shipped with the project; README.md says where it comes from."""
