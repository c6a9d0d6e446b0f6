"""torch.ops.canny2image.zero_convolutions: several 1x1 convolutions with scaled results as one kernel, for Hopper GPUs.

The first call for each size of maps compiles and loads the kernel. Only later calls can be captured into a CUDA graph.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from plugins.hopper.arguments import Expected, check_tensors
from plugins.hopper.launch import launch
from plugins.ops import torch_op
from plugins.zero_convolutions.compile import ALIGNED, Layer, ZeroConvolutions, choose


@torch_op("results")
def zero_convolutions(
    xs: list[Tensor], weights: list[Tensor], biases: list[Tensor], factors: Tensor, results: list[Tensor]
) -> None:
    """Write factors[:, i] times the 1x1 convolution of xs[i] with bias into results[i], for each i.

    xs[i] [m, c, h, w] is repeated n / m times along the batch; results[i] [n, c, h, w]: both channels-last; weights[i]
    [c, c, 1, 1], biases[i] [c], factors [n, number of convolutions]; c a multiple of ALIGNED. All are float16. Sums are
    float32, always in the same order, and rounded once.
    Raises ValueError for arguments that the kernel does not support, KernelError if it cannot be compiled or launched.
    """
    _check(xs, weights, biases, factors, results)
    sizes = ((x.shape[1], x.shape[2] * x.shape[3], x.shape[0]) for x in xs)
    layers = tuple(Layer(*one, choose(one[0])) for one in sizes)
    run(ZeroConvolutions(layers, len(factors)), xs, weights, biases, factors, results)


@zero_convolutions.without_values
def _(xs: list[Tensor], weights: list[Tensor], biases: list[Tensor], factors: Tensor, results: list[Tensor]) -> None:
    pass


def empty(xs: Sequence[Tensor], pictures: int) -> list[Tensor]:
    """Return uninitialized results for maps xs, channels-last."""
    return [
        torch.empty((pictures, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for x in xs
    ]


def run(
    kernel: ZeroConvolutions,
    xs: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    factors: Tensor,
    results: list[Tensor],
) -> None:
    """Write into `results`, with this kernel. The tensors are as `zero_convolutions` checks them."""
    launch(kernel, (), [*xs, *weights, *biases, *results, factors], kernel.starts[-1], factors.device)


def _check(
    xs: list[Tensor], weights: list[Tensor], biases: list[Tensor], factors: Tensor, results: list[Tensor]
) -> None:
    """Raise ValueError for unsupported arguments."""
    if not len(xs) == len(weights) == len(biases) == len(results) > 0:
        raise ValueError(
            f"zero_convolutions got {len(xs)} maps, {len(weights)} weights, {len(biases)} biases and {len(results)} "
            "results, expected as many of each, at least one"
        )
    n = len(factors)
    expected: list[Expected] = [("factors", factors, (n, len(xs)))]
    for i, (x, weight, bias) in enumerate(zip(xs, weights, biases, strict=True)):
        channels = x.shape[1]
        if channels % ALIGNED or n % x.shape[0]:
            raise ValueError(
                f"zero_convolutions got maps {list(x.shape)} for {n} pictures, expected channels that are a multiple "
                f"of {ALIGNED} and pictures that are a multiple of the maps: use torch.nn.functional.conv2d"
            )
        expected += [
            (f"xs[{i}]", x, tuple(x.shape)),
            (f"weights[{i}]", weight, (channels, channels, 1, 1)),
            (f"biases[{i}]", bias, (channels,)),
            (f"results[{i}]", results[i], (n, *x.shape[1:])),
        ]
    check_tensors("zero_convolutions", expected, factors.device, torch.float16)
