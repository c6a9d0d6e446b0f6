"""Selects the first of PyTorch's attention kernels that can run: cuDNN, flash, memory-efficient, or unfused."""

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel

FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def fused_attention() -> AbstractContextManager[None]:
    """Return a context in which scaled_dot_product_attention uses the first backend in FASTEST_FIRST that can run.

    PyTorch's own choice depends on its version and the GPU: 2.11 already chooses cuDNN on an H100.
    """
    return sdpa_kernel(FASTEST_FIRST, set_priority=True)
