"""Our own GPU kernels, and layers that use them or are computed in another form that is faster on GPUs.

Convolutions, attention and products are written in Triton (part of PyTorch for CUDA).
"""
