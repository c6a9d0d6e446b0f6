"""torch.ops.canny2image.convolution: a 3x3 convolution, its bias and a residual as one kernel, for Hopper GPUs.

The first call for each size of maps compiles and loads the kernel. Only later calls can be captured into a CUDA graph.
"""

import torch
from torch import Tensor

from plugins.convolution.compile import ConvolutionKernel
from plugins.convolution.tiles import STEP, Sizes, choose
from plugins.hopper.arguments import check_tensors
from plugins.hopper.launch import Source, launch


@torch.library.custom_op("canny2image::convolution", mutates_args=(), device_types="cuda")
def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """Return the convolution of x, zero-padded by 1, plus bias and residual: [n, o, h, w], channels-last.

    x [n, c, h, w], weight [o, c, 3, 3], residual [n, o, h, w]: float16, channels-last; bias [o]; c and o multiples of
    STEP. Sums are float32, always in the same order.
    Raises ValueError for arguments that the kernel does not support, KernelError if it cannot be compiled or launched.
    """
    _check(x, weight, bias, residual)
    result = _empty(x, weight)
    n, channels, h, w = x.shape
    sizes = Sizes(n, h, w, channels, weight.shape[0])
    run(
        ConvolutionKernel(sizes, choose(sizes), bias is not None, residual is not None),
        x,
        weight,
        bias,
        residual,
        result,
    )
    return result


@convolution.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    return _empty(x, weight)


def run(
    kernel: ConvolutionKernel, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, result: Tensor
) -> None:
    """Write the convolution into `result`, with this kernel. The tensors are as `convolution` checks them."""
    n, channels, h, w = x.shape
    outs = weight.shape[0]
    # TMA's axes are rows, pictures, columns and channels, so that a tile's rows are contiguous in shared memory.
    pixels = Source(x, (h, n, w, channels), (w * channels, h * w * channels, channels, 1))
    sources = Source(weight, (outs, 9 * channels), (9 * channels, 1)), pixels, pixels
    launch(kernel, sources, (bias, residual, result), kernel.tile.programs(kernel.sizes), x.device)


def _empty(x: Tensor, weight: Tensor) -> Tensor:
    """Return an uninitialized result."""
    size = x.shape[0], weight.shape[0], *x.shape[2:]
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
    """Raise ValueError for unsupported arguments."""
    outs, channels = weight.shape[:2]
    n, _, h, w = x.shape
    if channels % STEP or outs % STEP:
        raise ValueError(
            f"convolution got weight {list(weight.shape)}, expected in- and output channels that are multiples of "
            f"{STEP}: use torch.nn.functional.conv2d"
        )
    tensors = [
        ("x", x, (n, channels, h, w)),
        ("weight", weight, (outs, channels, 3, 3)),
        ("bias", bias, (outs,)),
        ("residual", residual, (n, outs, h, w)),
    ]
    check_tensors("convolution", tensors, x.device, torch.float16)
