"""Our own GPU kernels, and layers that use them or are computed in another form that is faster on GPUs.

Split-K convolutions need Triton (part of PyTorch for CUDA).
"""
