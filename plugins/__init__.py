"""Our own GPU kernels, and layers that use them or are computed in another form that is faster on GPUs.

Most kernels are written in Triton (part of PyTorch for CUDA); for Hopper GPUs, convolutions and products of few rows in
Gluon (part of Triton), products of many rows and attention of many queries in CUDA. GroupNorm is in CUDA for all GPUs.
"""
