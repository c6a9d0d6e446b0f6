"""3x3 convolutions for Hopper GPUs as torch ops, each one kernel, with what is added to their results.

The first call for each size of maps compiles and loads the kernel. Only later calls can be captured into a CUDA graph.
Maps and weights are float16 and channels-last, with input channels that are multiples of ALIGNED; biases are float16
[o]. Maps are padded with zeros. Sums are float32, always in the same order. With `scales`, float32 [o], x and weight
are float8_e4m3fn, input channels multiples of ALIGNED_FP8, and sums are multiplied by the scales; tensor cores add e4m3
products with fewer bits than float32 has. The ops raise ValueError for arguments that the kernel does not support,
KernelError if it cannot be compiled or launched.
"""

from dataclasses import replace

import torch
from torch import Tensor

from plugins.convolution.compile import ConvolutionKernel
from plugins.convolution.tiles import ALIGNED, Sizes, choose, up
from plugins.hopper.arguments import Expected, check_tensors
from plugins.hopper.launch import launch
from plugins.hopper.parameters import Source
from plugins.ops import torch_op

Extra = tuple[Tensor, Tensor, Tensor]  # a map, the weight of its 1x1 convolution, and the bias


@torch_op()
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: int = 1,
    scales: Tensor | None = None,
) -> Tensor:
    """Return the convolution of x plus bias and residual: [n, o, h / stride, w / stride], rounded up.

    x [n, c, h, w], weight [o, c, 3, 3], residual as the result, stride 1 or, without scales, 2.
    """
    sizes = _check(x, weight, bias, residual, stride=stride, scales=scales)
    kernel = ConvolutionKernel(sizes, choose(sizes), bias is not None, residual is not None)
    return run(kernel, x, weight, bias, residual, scales=scales)


@torch_op()
def convolution_skip(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    extra: Tensor,
    extra_weight: Tensor,
    extra_bias: Tensor,
    scales: Tensor | None = None,
) -> Tensor:
    """Return the convolution of x plus the 1x1 convolution of another map, both with bias: [n, o, h, w].

    x [n, c, h, w], weight [o, c, 3, 3], extra [n, d, h, w], extra_weight [o, d, 1, 1].
    """
    sizes = _check(x, weight, bias, extra=(extra, extra_weight, extra_bias), scales=scales)
    kernel = ConvolutionKernel(sizes, choose(sizes), bias=True, residual=False)
    return run(kernel, x, weight, bias, extra=(extra, extra_weight, extra_bias), scales=scales)


@torch_op()
def upsampled_convolution(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """Return the 3x3 convolution, with bias, of x repeated twice along both axes: [n, o, 2h, 2w].

    x [n, c, h, w], kernels [4 * o, c, 2, 2]: those of the phases, see `plugins/phase_upsampling.py`.
    """
    sizes = _check(x, kernels, bias, taps=2)
    return run(ConvolutionKernel(sizes, choose(sizes), bias=True, residual=False), x, kernels, bias)


@convolution.without_values
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: int = 1,
    scales: Tensor | None = None,
) -> Tensor:
    return _empty(x, _sizes(x, weight, stride=stride))


@convolution_skip.without_values
def _(x: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
    return _empty(x, _sizes(x, weight))


@upsampled_convolution.without_values
def _(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    return _empty(x, _sizes(x, kernels, taps=2))


def run(
    kernel: ConvolutionKernel,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    result: Tensor | None = None,
    extra: Extra | None = None,
    scales: Tensor | None = None,
) -> Tensor:
    """Return the convolution by this kernel, in `result` if given. The tensors are as the ops check them."""
    result = _empty(x, kernel.sizes) if result is None else result
    pixels = _pixels(x, kernel.sizes.stride)
    sources = [Source(weight, (len(weight), weight[0].numel()), (weight[0].numel(), 1)), pixels]
    if kernel.sizes.stride == 1:
        sources.append(pixels)
    if extra:
        depth = extra[1].shape[1]
        sources += [Source(extra[1], (len(weight), depth), (depth, 1)), _pixels(extra[0])]
    others = bias, extra[2] if extra else None, residual, result, *(() if scales is None else (scales,))
    launch(kernel, sources, others, kernel.tile.programs(kernel.sizes), x.device)
    return result


def _pixels(x: Tensor, stride: int = 1) -> Source:
    """Return a map for TMA: rows, pictures, columns and channels, so that a tile's rows are contiguous."""
    n, channels, h, w = x.shape
    strides = w * channels, h * w * channels, channels, 1
    return Source(x, (h, n, w, channels), strides, (stride, 1, stride, 1))


def _sizes(x: Tensor, weight: Tensor, extra: int = 0, taps: int = 3, stride: int = 1) -> Sizes:
    n, channels, h, w = x.shape
    outs = weight.shape[0] // (4 if taps == 2 else 1)
    return Sizes(n, up(h, stride), up(w, stride), channels, outs, extra, taps, stride)


def _empty(x: Tensor, sizes: Sizes) -> Tensor:
    """Return an uninitialized result."""
    scale = 2 if sizes.taps == 2 else 1
    size = sizes.n, sizes.outs, scale * sizes.h, scale * sizes.w
    return torch.empty(size, dtype=torch.float16, device=x.device, memory_format=torch.channels_last)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    extra: Extra | None = None,
    taps: int = 3,
    stride: int = 1,
    scales: Tensor | None = None,
) -> Sizes:
    """Return the sizes. Raise ValueError for unsupported arguments."""
    sizes = _sizes(x, weight, extra[0].shape[1] if extra else 0, taps, stride)
    sizes = replace(sizes, fp8=scales is not None)
    n, h, w, outs, channels = sizes.n, sizes.h, sizes.w, sizes.outs, weight.shape[1]
    if channels % sizes.aligned or sizes.extra % ALIGNED:
        also = f" and a further map with {sizes.extra} channels" if extra else ""
        raise ValueError(
            f"convolution got weight {list(weight.shape)}{also}, expected input channels that are multiples of "
            f"{sizes.aligned}: use torch.nn.functional.conv2d"
        )
    if sizes.fp8 and stride != 1:
        raise ValueError(f"convolution got scales and stride {stride}, expected stride 1: use float16 without scales")
    factors: list[Expected] = [
        ("x", x, (n, channels, *x.shape[2:])),
        ("weight", weight, (sizes.phases * outs, channels, taps, taps)),
    ]
    check_tensors("convolution", factors, x.device, torch.float8_e4m3fn if sizes.fp8 else torch.float16)
    check_tensors("convolution", [("scales", scales, (outs,))], x.device, torch.float32)
    tensors: list[Expected] = [
        ("bias", bias, (outs,)),
        ("residual", residual, (n, outs, h, w)),
    ]
    if extra:
        shapes = (n, sizes.extra, h, w), (outs, sizes.extra, 1, 1), (outs,)
        tensors += zip(("extra", "extra_weight", "extra_bias"), extra, shapes, strict=True)
    check_tensors("convolution", tensors, x.device, torch.float16)
    return sizes
