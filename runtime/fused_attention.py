"""Attention in one kernel, by the fastest that PyTorch has for the shape: cuDNN's before flash attention."""

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel

FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def fused_attention() -> AbstractContextManager[None]:
    """Meanwhile scaled_dot_product_attention takes the first of these that can; by itself it takes flash attention."""
    return sdpa_kernel(FASTEST_FIRST, set_priority=True)
