"""Kernels of our own, and the layers that run on them. Triton, where one needs it, comes with PyTorch for CUDA."""
