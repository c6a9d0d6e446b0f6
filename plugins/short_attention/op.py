"""torch.ops.canny2image.attention: attention over few tokens, or with narrow heads, as one kernel for Hopper GPUs.

The first call for each size compiles and loads the kernel. Only later calls can be captured into a CUDA graph.
"""

import logging
from functools import cache

import torch
from torch import Tensor

from plugins.hopper.compile import HOPPER, cubin
from plugins.hopper.launch import launch
from plugins.nvrtc import KernelError
from plugins.ops import torch_op
from plugins.short_attention.compile import ShortAttention

log = logging.getLogger(__name__)

WIDEST = 256  # head


@torch_op()
def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Return the attention of q [n, rows, width] to k and v [n, tokens, width], with the heads side by side.

    All float16, contiguous along the width, which is at most heads * WIDEST; k and v have equal strides. Sums and
    softmax are float32. causal: row i attends only to the tokens up to i.
    Raises ValueError for arguments that the kernel does not support, KernelError if it cannot be compiled or launched.
    """
    _check(q, k, v, heads)
    (n, rows, width), tokens = q.shape, k.shape[1]
    strides = q.stride(0), q.stride(1), k.stride(0), k.stride(1)
    kernel = ShortAttention(n, rows, tokens, heads, width // heads, strides, causal)
    result = _empty(q)
    launch(kernel, (), (q, k, v, result), kernel.programs, q.device)
    return result


@attention.without_values
def _(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    return _empty(q)


@cache
def runs_on(device: torch.device) -> bool:
    """Return whether the device is a Hopper GPU and the kernel compiles. Logs why not, once."""
    if torch.cuda.get_device_capability(device) != HOPPER:
        return False
    try:
        cubin(ShortAttention(1, 1, 1, 1, 16, (16, 16, 16, 16)))
    except KernelError as error:
        log.warning("attention over few tokens uses PyTorch's kernels, which are slower: %s", error)
        return False
    return True


def _empty(q: Tensor) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _check(q: Tensor, k: Tensor, v: Tensor, heads: int) -> None:
    """Raise ValueError for unsupported arguments."""
    (n, rows, width), tokens = q.shape, k.shape[1]
    if width % heads or width > heads * WIDEST:
        raise ValueError(
            f"attention got {heads} heads for a width of {width}, expected heads of equal width, at most {WIDEST}: use "
            "torch.nn.functional.scaled_dot_product_attention"
        )
    for name, one, shape in (("q", q, (n, rows, width)), ("k", k, (n, tokens, width)), ("v", v, (n, tokens, width))):
        if one.dtype != torch.float16 or one.shape != shape or one.device != q.device:
            raise ValueError(
                f"attention got {name} as {one.dtype} {list(one.shape)} on {one.device}, expected torch.float16 "
                f"{list(shape)} on {q.device}: convert it"
            )
        if one.stride(2) != 1 or one.data_ptr() % 16 or (name == "v" and one.stride() != k.stride()):
            raise ValueError(
                f"attention got {name} with strides {list(one.stride())} at address {one.data_ptr()}, expected a "
                "contiguous width, equal strides of k and v, and an address that is a multiple of 16: call "
                ".contiguous() first"
            )
