"""Our own GPU kernels, and the layers that use them. Split-K convolutions need Triton (part of PyTorch for CUDA)."""
