"""torch.ops.canny2image.long_attention: attention of many queries as one kernel, for Hopper GPUs.

For 1536 queries and keys, guidance and eight heads of 40, it takes 21 us on an H200; cuDNN takes 33, with the memory
that it clears first.
The first call for each size compiles and loads the kernel. Only later calls can be captured into a CUDA graph.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from plugins.hopper.compile import busy
from plugins.hopper.cuda_kernel import programs, runs
from plugins.hopper.parameters import tensor_map
from plugins.long_attention.tiles import BOX, HEADS, ROWS, Sizes
from plugins.ops import torch_op
from plugins.short_attention.compile import MOST_TOKENS

# Where it was measured and is faster than the other kernels: for many keys and heads of LONG, if FILLED of the
# multiprocessors have work on average; for few keys, in batches of pictures.
LONG, FEWEST_TOKENS, FILLED = 40, 1024, 0.85
SEVERAL = 4  # maps of two pictures


@torch_op()
def long_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Return the attention of q [n, rows, width] to k and v [n, tokens, width], with the heads side by side.

    All float16, contiguous along the width, which is heads times one of HEADS. Sums and softmax are float32.
    Raises ValueError for arguments that the kernel does not support, KernelError if it cannot be compiled or launched.
    """
    _check(q, k, v, heads)
    result = _empty(q)
    run(q, k, v, heads, result)
    return result


@long_attention.without_values
def _(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return _empty(q)


def run(q: Tensor, k: Tensor, v: Tensor, heads: int, result: Tensor) -> None:
    """Write into `result`, contiguous. The other tensors are as `long_attention` checks them."""
    sizes = _sizes(q, k, heads)
    boxes = (q, ROWS), (k, sizes.part), (v, sizes.part)
    values = [
        *(_map(one, sizes, box) for one, box in boxes),
        *(ctypes.c_void_p(result.data_ptr()), ctypes.c_int(sizes.tiles)),
    ]
    sizes.kernel().launch(q.device, programs(q.device, sizes.tiles), values)


def is_faster(q: Tensor, k: Tensor, heads: int) -> bool:
    """Return whether the kernel supports these sizes, and is faster than others."""
    sizes = _sizes(q, k, heads)
    if q.shape[2] % heads or sizes.head not in HEADS or sizes.rows < ROWS:
        return False
    if sizes.tokens <= MOST_TOKENS:
        return sizes.n >= SEVERAL
    return sizes.head == LONG and sizes.tokens >= FEWEST_TOKENS and busy(sizes.tiles) >= FILLED


@cache
def runs_on(device: torch.device) -> bool:
    """Return whether the device is a Hopper GPU and the kernel compiles. Logs why not, once."""
    kernel = Sizes(1, ROWS, 2, 1, HEADS[0]).kernel()
    return runs(kernel, device, "attention of many queries uses other kernels, which are slower")


def _sizes(q: Tensor, k: Tensor, heads: int) -> Sizes:
    n, rows, width = q.shape
    return Sizes(n, rows, k.shape[1], heads, width // heads)


def _map(x: Tensor, sizes: Sizes, box: int) -> Any:
    """Return the map of x with which TMA loads `box` rows of BOX columns of a head, with zeros beyond."""
    shape, strides = (*x.shape[:2], sizes.heads, sizes.head), (x.stride(0), x.stride(1), sizes.head, 1)
    return tensor_map(x.data_ptr(), shape, strides, (1, box, 1, BOX))


def _empty(q: Tensor) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _check(q: Tensor, k: Tensor, v: Tensor, heads: int) -> None:
    """Raise ValueError for unsupported arguments."""
    (n, rows, width), tokens = q.shape, k.shape[1]
    if width not in [heads * head for head in HEADS]:
        widths = " or ".join(map(str, HEADS))
        raise ValueError(
            f"long_attention got {heads} heads for a width of {width}, expected heads of {widths}: use "
            "torch.nn.functional.scaled_dot_product_attention"
        )
    for name, one, count in (("q", q, rows), ("k", k, tokens), ("v", v, tokens)):
        if one.dtype != torch.float16 or one.shape != (n, count, width) or one.device != q.device:
            raise ValueError(
                f"long_attention got {name} as {one.dtype} {list(one.shape)} on {one.device}, expected torch.float16 "
                f"{[n, count, width]} on {q.device}: convert it"
            )
        if one.stride(2) != 1 or one.stride(0) % 8 or one.stride(1) % 8 or one.data_ptr() % 16:
            raise ValueError(
                f"long_attention got {name} with strides {list(one.stride())} at address {one.data_ptr()}, expected "
                "contiguous heads, and other strides and an address that are multiples of 16 bytes: call .clone() first"
            )
