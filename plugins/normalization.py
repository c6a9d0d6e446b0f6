"""GroupNorm, and SiLU after it, over maps whose channels lie together in memory.

PyTorch's asks for each channel's pixels together, so torch.compile turns maps around before and after it.
Small maps take one kernel, a group to a program. Larger ones take two: statistics of stretches of pixels, then all.
The input may come in parts that are still to be added, as `convolution_parts` leaves them, without the convolution's
bias and the shift of time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

LARGEST_GROUP = 16384  # values that one program holds
STRETCHES = 48  # of pixels, in each map
TILE = 4096  # values that one program of the two-kernel way holds


@triton_op("canny2image::group_norm", mutates_args={})
def group_norm(
    x: Tensor,
    lacking: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """GroupNorm (Wu and He 2018) of the sum of x over its first axis, plus lacking, plus shift; then SiLU, if wanted.

    x: float16 or float32 [parts, n, pixels, c], contiguous; lacking, weight and bias: [c]; shift: [1 or n, c].
    Returns [n, pixels, c] in the weight's precision. Statistics are in float32.
    """
    parts, n, pixels, channels = x.shape
    width = channels // groups
    result = x.new_empty((n, pixels, channels), dtype=weight.dtype)
    shift_step = channels if shift is not None and shift.shape[0] > 1 else 0
    # A kernel does not read what stands in for nothing.
    values = (x, weight if lacking is None else lacking, weight if shift is None else shift)
    block_width = triton.next_power_of_2(width)
    sizes = (n * pixels * channels, pixels, channels, shift_step)
    about: dict[str, Any] = {"PARTS": parts, "WIDTH": width, "BLOCK_WIDTH": block_width}
    about |= {"LACKING": lacking is not None, "SHIFTED": shift is not None}
    block_pixels = triton.next_power_of_2(pixels)
    if block_pixels * block_width <= LARGEST_GROUP:
        wrap_triton(_whole_group)[(groups, n)](
            *values, weight, bias, result, *sizes, eps,
            **about, SILU=silu, BLOCK_PIXELS=block_pixels, num_warps=8 if block_pixels * block_width > 4096 else 4,
        )  # fmt: skip
        return result
    block_groups = min(8, groups)
    block_pixels = max(1, TILE // (block_groups * block_width))
    length = triton.cdiv(triton.cdiv(pixels, STRETCHES), block_pixels) * block_pixels
    stretches = triton.cdiv(pixels, length)
    about |= {"LENGTH": length, "BLOCK_GROUPS": block_groups, "BLOCK_PIXELS": block_pixels}
    statistics = x.new_empty((n, stretches, 2, groups), dtype=torch.float32)
    wrap_triton(_stretch_statistics)[(stretches, groups // block_groups, n)](
        *values, statistics, *sizes, groups, **about, num_warps=4
    )
    wrap_triton(_normalize)[(triton.cdiv(pixels, block_pixels), groups // block_groups, n)](
        *values, weight, bias, statistics, result, *sizes, groups, stretches, eps,
        **about, SILU=silu, BLOCK_STRETCHES=triton.next_power_of_2(stretches), num_warps=4,
    )  # fmt: skip
    return result


@triton.jit
def _values(
    x, lacking, shift, at, channel, inside, size,
    PARTS: tl.constexpr, LACKING: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    total = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    for part in range(1, PARTS):
        total += tl.load(x + part * size + at, mask=inside, other=0.0).to(tl.float32)
    if LACKING:
        total += tl.load(lacking + channel, mask=inside, other=0.0).to(tl.float32)
    if SHIFTED:
        total += tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
    return total


@triton.jit
def _finish(normal, weight, bias, channel, inside, SILU: tl.constexpr):
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    y = normal * scale + tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        y = y * tl.sigmoid(y)
    return y


@triton.jit
def _whole_group(
    x, lacking, shift, weight, bias, result, size, pixels, channels, shift_step, eps,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, LACKING: tl.constexpr,
    SHIFTED: tl.constexpr, SILU: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1)
    pixel = tl.arange(0, BLOCK_PIXELS)[:, None]
    member = tl.arange(0, BLOCK_WIDTH)[None, :]
    channel = tl.program_id(0) * WIDTH + member
    inside = (pixel < pixels) & (member < WIDTH)
    at = (image * pixels + pixel) * channels + channel
    values = _values(x, lacking, shift + image * shift_step, at, channel, inside, size, PARTS, LACKING, SHIFTED)
    count = pixels * WIDTH
    centred = tl.where(inside, values - tl.sum(values) / count, 0.0)
    variance = tl.sum(centred * centred) / count
    y = _finish(centred * tl.rsqrt(variance + eps), weight, bias, channel, inside, SILU)
    tl.store(result + at, y.to(result.dtype.element_ty), mask=inside)


@triton.jit
def _stretch_statistics(
    x, lacking, shift, statistics, size, pixels, channels, shift_step, groups,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, LACKING: tl.constexpr,
    SHIFTED: tl.constexpr, LENGTH: tl.constexpr, BLOCK_GROUPS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    # Mean and sum of squared differences from it, of each group's values in one stretch, block by block: the way of
    # Chan et al. 1979, which does not subtract large sums of squares.
    stretch, image = tl.program_id(0), tl.program_id(2)
    group = tl.program_id(1) * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    member = tl.arange(0, BLOCK_WIDTH)[None, None, :]
    channel = group[None, :, None] * WIDTH + member
    mean = tl.zeros((BLOCK_GROUPS,), dtype=tl.float32)
    squares = tl.zeros((BLOCK_GROUPS,), dtype=tl.float32)
    for start in range(0, LENGTH, BLOCK_PIXELS):
        pixel = stretch * LENGTH + start + tl.arange(0, BLOCK_PIXELS)[:, None, None]
        inside = (pixel < pixels) & (member < WIDTH) & (channel < channels)
        at = (image * pixels + pixel) * channels + channel
        values = _values(x, lacking, shift + image * shift_step, at, channel, inside, size, PARTS, LACKING, SHIFTED)
        count = tl.maximum(tl.minimum(pixels - stretch * LENGTH - start, BLOCK_PIXELS), 0) * WIDTH
        if count > 0:
            block_mean = tl.sum(tl.sum(values, axis=2), axis=0) / count
            centred = tl.where(inside, values - block_mean[None, :, None], 0.0)
            difference = block_mean - mean
            before = start * WIDTH
            mean += difference * count / (before + count)
            squares += tl.sum(tl.sum(centred * centred, axis=2), axis=0)
            squares += difference * difference * before * count / (before + count)
    at = (image * tl.num_programs(0) + stretch) * 2 * groups + group
    tl.store(statistics + at, mean)
    tl.store(statistics + at + groups, squares)


@triton.jit
def _normalize(
    x, lacking, shift, weight, bias, statistics, result, size, pixels, channels, shift_step, groups, stretches, eps,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, LACKING: tl.constexpr,
    SHIFTED: tl.constexpr, LENGTH: tl.constexpr, BLOCK_GROUPS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    SILU: tl.constexpr, BLOCK_STRETCHES: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(2)
    group = tl.program_id(1) * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    stretch = tl.arange(0, BLOCK_STRETCHES)[:, None]
    known = stretch < stretches
    at = (image * stretches + stretch) * 2 * groups + group[None, :]
    means = tl.load(statistics + at, mask=known, other=0.0)
    squares = tl.load(statistics + at + groups, mask=known, other=0.0)
    counts = tl.where(known, tl.minimum(pixels - stretch * LENGTH, LENGTH) * WIDTH, 0)
    total = pixels * WIDTH
    mean = tl.sum(means * counts, axis=0) / total
    apart = tl.where(known, means - mean[None, :], 0.0)
    variance = (tl.sum(squares, axis=0) + tl.sum(apart * apart * counts, axis=0)) / total

    member = tl.arange(0, BLOCK_WIDTH)[None, None, :]
    channel = group[None, :, None] * WIDTH + member
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None, None]
    inside = (pixel < pixels) & (member < WIDTH) & (channel < channels)
    at = (image * pixels + pixel) * channels + channel
    values = _values(x, lacking, shift + image * shift_step, at, channel, inside, size, PARTS, LACKING, SHIFTED)
    normal = (values - mean[None, :, None]) * tl.rsqrt(variance + eps)[None, :, None]
    y = _finish(normal, weight, bias, channel, inside, SILU)
    tl.store(result + at, y.to(result.dtype.element_ty), mask=inside)
