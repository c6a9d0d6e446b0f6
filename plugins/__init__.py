"""Our own GPU kernels, and layers that use them or are computed in another form that is faster on GPUs.

`layers` and most kernels need Triton (part of PyTorch for CUDA).
"""
