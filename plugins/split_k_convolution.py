"""Split-K convolutions: for 3x3 convolutions over few pixels and many channels, split each sum into parallel parts.

At 8x12 pixels and 1280 channels there are few outputs, and each is a sum of 11,520 products. A kernel that assigns each
tile of outputs to one multiprocessor leaves most of the GPU idle: on an H200 cuDNN takes 24 us, although reading the
weights takes only 7 us. This kernel computes parts of the sums in parallel and takes 17 us. torch.compile adds the
parts, always in the same order, in the kernel that adds the bias.
"""

from functools import reduce

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.library import triton_op, wrap_triton

from ldm.blocks import AddedConv2d
from plugins.compiling import compiles_half

# The best of a dozen settings tried on an H200.
ROWS, COLUMNS, DEPTH = 64, 128, 64  # output tile: pixels, channels; input channels per step
WARPS, STAGES = 4, 4
PROGRAMS = 264  # two per multiprocessor of an H200


class SplitKConv2d(AddedConv2d):
    """Any 3x3 convolution. Under torch.compile, on a GPU in float16, its sums are split if that is faster."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride = self.stride[0]
        n, channels, h, w = x.shape
        parts = parts_for(n * -(-h // stride) * -(-w // stride), channels, self.out_channels)
        if not (parts and compiles_half(x)):
            return super()._conv_forward(x, weight, bias)
        weight = weight.permute(0, 2, 3, 1).contiguous()
        split = convolution_parts(x.permute(0, 2, 3, 1).contiguous(), weight, stride, parts)
        total = reduce(torch.add, split.unbind(0))
        return (total if bias is None else total + bias).to(x.dtype).permute(0, 3, 1, 2)


def split_convolutions(model: nn.Module) -> None:
    """Turn the 3x3 convolutions of a model on a GPU into `SplitKConv2d`, in place.

    Weights and names stay the same; results differ only by rounding.
    """
    if torch.cuda.get_device_capability(next(model.parameters()).device) < (8, 0):
        return  # the kernel needs more shared memory than older GPUs have
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and type(module) in (nn.Conv2d, AddedConv2d) and _is_3x3(module):
            module.__class__ = SplitKConv2d


def _is_3x3(layer: nn.Conv2d) -> bool:
    return (layer.kernel_size, layer.padding) == ((3, 3), (1, 1))


def parts_for(pixels: int, channels: int, out_channels: int) -> int:
    """Return the number of parts to split a convolution's sums into; 0 if cuDNN is faster or the sizes are unsupported.

    pixels: output pixels of all maps together. The bounds were measured on an H200 (docs/performance.md).
    """
    if channels % DEPTH or out_channels % COLUMNS:
        return 0
    tiles = triton.cdiv(pixels, ROWS) * out_channels // COLUMNS
    parts = min(PROGRAMS // tiles, 13)
    return parts if parts >= 8 or (parts >= 4 and 640 <= channels <= 1280) else 0


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
