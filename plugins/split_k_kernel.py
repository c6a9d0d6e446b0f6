"""torch.ops.canny2image.convolution_parts: the parts of split-K convolutions, as a kernel in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from plugins.split_k_tiles import COLUMNS, DEPTH, ROWS, STAGES, WARPS


@triton_op("canny2image::convolution_parts", mutates_args={})
def convolution_parts(x: Tensor, weight: Tensor, stride: int, parts: int) -> Tensor:
    """Return parts whose sum over the first axis is the 3x3 convolution of x, zero-padded by 1.

    x: float16 [n, h, w, c], weight: float16 [o, 3, 3, c], both contiguous; c a multiple of DEPTH, o of COLUMNS.
    The result is float32 [parts, n, h / stride, w / stride, o], with h / stride and w / stride rounded up.
    """
    n, h, w, channels = x.shape
    out_channels, out_h, out_w = weight.shape[0], -(-h // stride), -(-w // stride)
    pixels = n * out_h * out_w
    result = x.new_empty((parts, n, out_h, out_w, out_channels), dtype=torch.float32)
    grid = (out_channels // COLUMNS, triton.cdiv(pixels, ROWS), parts)
    wrap_triton(_convolution)[grid](
        x, weight, result, h, w, out_h, out_w, channels, out_channels, pixels, parts,
        STRIDE=stride, ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return result


@triton.jit
def _convolution(
    x, weight, result, h, w, out_h, out_w, channels, out_channels,
    pixels, parts, STRIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # A program computes one part of the sums of one output tile. Each step adds DEPTH channels of one of 9 filter taps.
    part = tl.program_id(2)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    image = rows // (out_h * out_w)
    top = rows // out_w % out_h * STRIDE - 1
    left = rows % out_w * STRIDE - 1
    steps_per_tap = channels // DEPTH
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(part * 9 * steps_per_tap // parts, (part + 1) * 9 * steps_per_tap // parts):
        tap = step // steps_per_tap
        y, z = top + tap // 3, left + tap % 3
        inside = (rows < pixels) & (y >= 0) & (y < h) & (z >= 0) & (z < w)
        channel = (step - tap * steps_per_tap) * DEPTH + depth
        values = tl.load(
            x + ((image * h + y) * w + z)[:, None] * channels + channel[None, :], mask=inside[:, None], other=0.0
        )
        weights = tl.load(weight + columns[None, :] * (9 * channels) + (step * DEPTH + depth)[:, None])
        total = tl.dot(values, weights, total)
    at = (part * pixels + rows[:, None]) * out_channels + columns[None, :]
    tl.store(result + at, total, mask=(rows < pixels)[:, None])
