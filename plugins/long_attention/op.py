"""torch.ops.canny2image.long_attention: attention over many tokens as one kernel, for Hopper GPUs.

For 1536 queries and keys of two pictures it takes 21 us on an H200, cuDNN 33 with the memory that it clears first.
The first call compiles and loads the kernel. Only later calls can be captured into a CUDA graph.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugins.hopper.compile import PROCESSORS
from plugins.hopper.cuda_kernel import CudaKernel, runs
from plugins.hopper.parameters import tensor_map
from plugins.ops import torch_op

HEAD = 40  # width of a head
ROWS, PART = 192, 96  # queries of a program, and keys that it loads at once
STAGES, BOX = 3, 64  # parts in shared memory, and columns of a row there
THREADS = 416
SHARED = 1024 + 2 * BOX * (2 * ROWS + 2 * STAGES * PART)  # bytes, with those lost to the alignment
KERNEL = CudaKernel(Path(__file__).with_name("kernel.cu"), "canny2image_long_attention", THREADS, SHARED)
FEWEST_TOKENS = 1024  # fewer were not measured
# Part of the multiprocessors that has work, on average, with one program at a time. One picture, with 64 programs,
# takes as long as two.
FILLED = 0.9


@torch_op()
def long_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Return the attention of q [n, rows, width] to k and v [n, tokens, width], with the heads side by side.

    All float16, contiguous along the width, which is heads * HEAD; tokens: a multiple of PART, at least two. Sums and
    softmax are float32. Raises ValueError for arguments that the kernel does not support, KernelError if it cannot be
    compiled or launched.
    """
    _check(q, k, v, heads)
    (n, rows, _), tokens = q.shape, k.shape[1]
    tiles = _tiles(n, rows, heads)
    result = _empty(q)
    values = [
        *(_map(one, heads, box) for one, box in ((q, ROWS), (k, PART), (v, PART))),
        *(ctypes.c_void_p(result.data_ptr()), *map(ctypes.c_int, (rows, tokens, heads, tiles))),
    ]
    KERNEL.launch(q.device, (min(tiles, PROCESSORS), 1, 1), values)
    return result


@long_attention.without_values
def _(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return _empty(q)


def is_faster(q: Tensor, k: Tensor, heads: int) -> bool:
    """Return whether the kernel supports these sizes, and is faster than cuDNN's attention."""
    (n, rows, width), tokens = q.shape, k.shape[1]
    if width != heads * HEAD or tokens % PART or tokens < FEWEST_TOKENS:
        return False
    tiles = _tiles(n, rows, heads)
    rounds = -(-tiles // PROCESSORS)
    return tiles >= FILLED * rounds * PROCESSORS


@cache
def runs_on(device: torch.device) -> bool:
    """Return whether the device is a Hopper GPU and the kernel compiles. Logs why not, once."""
    return runs(KERNEL, device, "attention over many tokens uses cuDNN, which is slower")


def _tiles(n: int, rows: int, heads: int) -> int:
    return n * heads * -(-rows // ROWS)


def _map(x: Tensor, heads: int, box: int) -> Any:
    """Return the map of x with which TMA loads `box` rows of one head, with zeros in the columns after HEAD."""
    shape, strides = (*x.shape[:2], heads, HEAD), (x.stride(0), x.stride(1), HEAD, 1)
    return tensor_map(x.data_ptr(), shape, strides, (1, box, 1, BOX))


def _empty(q: Tensor) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _check(q: Tensor, k: Tensor, v: Tensor, heads: int) -> None:
    """Raise ValueError for unsupported arguments."""
    n, tokens, width = q.shape[0], k.shape[1], heads * HEAD
    if tokens % PART or tokens < 2 * PART:
        raise ValueError(
            f"long_attention got {tokens} tokens, expected a multiple of {PART}, at least {2 * PART}: use "
            "torch.nn.functional.scaled_dot_product_attention"
        )
    for name, one, rows in (("q", q, q.shape[1]), ("k", k, tokens), ("v", v, tokens)):
        if one.dtype != torch.float16 or one.shape != (n, rows, width) or one.device != q.device:
            raise ValueError(
                f"long_attention got {name} as {one.dtype} {list(one.shape)} on {one.device}, expected torch.float16 "
                f"{[n, rows, width]} on {q.device}: convert it"
            )
        if one.stride(2) != 1 or one.stride(0) % 8 or one.stride(1) % 8 or one.data_ptr() % 16:
            raise ValueError(
                f"long_attention got {name} with strides {list(one.stride())} at address {one.data_ptr()}, expected "
                "contiguous heads, and other strides and an address that are multiples of 16 bytes: call .clone() first"
            )
