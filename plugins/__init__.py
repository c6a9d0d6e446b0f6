"""Kernels of our own, and the layers that run on them. They need Triton, which CUDA builds of PyTorch bring."""
