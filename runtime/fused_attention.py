"""Selects the first of PyTorch's attention kernels that can run: cuDNN, flash, memory-efficient, or unfused."""

from torch.nn.attention import SDPBackend, sdpa_kernel

from runtime.shared_context import SharedContext

FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


# A context in which scaled_dot_product_attention uses the first backend in FASTEST_FIRST that can run. PyTorch's own
# choice depends on its version and the GPU: 2.11 already chooses cuDNN on an H100.
fused_attention = SharedContext(lambda: sdpa_kernel(FASTEST_FIRST, set_priority=True))
