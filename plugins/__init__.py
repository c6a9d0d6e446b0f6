"""Our own GPU kernels, and layers that use them or are computed in another form that is faster on GPUs.

Most kernels are written in Triton (part of PyTorch for CUDA), those for Hopper GPUs (convolutions and matrix
products) in Gluon (part of Triton), GroupNorm in CUDA.
"""
