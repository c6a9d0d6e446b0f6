"""Kernels of our own, and the layers that run on them. Needs Triton, which CUDA builds of PyTorch bring."""
