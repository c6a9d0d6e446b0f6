"""python -m benchmarks.convolution: times 3x3 convolutions with bias and what is added on a Hopper GPU.

Compares our kernel with torch.compile, which uses cuDNN, and with our split sums where the product uses those on other
GPUs. Added is a residual or, with further channels, a 1x1 convolution; two taps are the phases of an upsampling, and
with a stride nothing is added. The maps are channels-last float16 maps of Stable Diffusion 1.5 at 256x384 with
guidance, of one picture and of two and eight, at 512x512, and of its VAE. At the end are convolutions of e4m3 maps,
beside those of float16 in PyTorch. Times are per call: medians over replays of a CUDA graph of 40 calls, divided by 40.
The calls alternate between weights, which do not stay in the cache within a picture either.
"""

import argparse
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.group_norm import measure, rotating_inputs
from commands import one_line
from plugins.convolution.op import convolution, convolution_skip, upsampled_convolution
from plugins.convolution.tiles import Sizes, choose
from plugins.group_norm.op import FP8 as E4M3
from plugins.hopper.compile import HOPPER
from plugins.phase_upsampling import upsample
from plugins.split_k_convolution import split_convolutions
from plugins.split_k_tiles import parts_choice

LEVELS = {  # rows and columns of maps, and the in- and output channels of their convolutions
    (4, 6): [(1280, 1280), (2560, 1280)],
    (8, 12): [(1280, 1280), (640, 1280), (1920, 1280), (2560, 1280)],
    (16, 24): [(640, 640), (320, 640), (960, 640), (1280, 640), (1280, 1280), (1920, 640)],
    (32, 48): [(320, 320), (640, 320), (960, 320)],
}
SD15 = [Sizes(2, *size, *channels) for size, level in LEVELS.items() for channels in level]
SHAPES = [
    *SD15,
    *(Sizes(n, *size, *level[0]) for n in (4, 16) for size, level in LEVELS.items()),
    *(Sizes(2, side, side, c, c) for side, c in ((8, 1280), (16, 1280), (32, 640), (64, 320))),
    *(Sizes(1, h, w, 512, 512) for h, w in ((32, 48), (64, 96))),
]
# Convolutions with that of a skip connection: rows and columns, output channels, and channels of the skip connection.
SKIPS = [
    *(Sizes(2, 4, 6, 1280, 1280, extra) for extra in (2560,)),
    *(Sizes(2, 8, 12, 1280, 1280, extra) for extra in (640, 1920, 2560)),
    *(Sizes(2, 16, 24, 640, 640, extra) for extra in (320, 960, 1280, 1920)),
    *(Sizes(2, 32, 48, 320, 320, extra) for extra in (640, 960)),
    *(Sizes(16, h, w, c, c, 640) for h, w, c in ((8, 12, 1280), (32, 48, 320))),
]
UPSAMPLINGS = [
    *(Sizes(2, h, w, c, c, taps=2) for h, w, c in ((8, 12, 1280), (16, 24, 640))),
    *(Sizes(16, h, w, c, c, taps=2) for h, w, c in ((8, 12, 1280), (16, 24, 640))),
    *(Sizes(8, h, w, 512, 512, taps=2) for h, w in ((32, 48), (64, 96))),
    *(Sizes(1, h, w, c, c, taps=2) for h, w, c in ((32, 48, 512), (64, 96, 512), (128, 192, 256))),
]
FP8 = [
    *(replace(sizes, n=n, fp8=True) for n in (2, 16) for sizes in SD15 if sizes.outs == 1280),
    *(replace(sizes, fp8=True) for sizes in SKIPS if sizes.outs == 1280),
]
STRIDES = [Sizes(2, h, w, c, c, stride=2) for h, w, c in ((16, 24, 320), (8, 12, 640), (4, 6, 1280))]

Convolution = Callable[..., Tensor]


def plain_skip(
    x: Tensor, weight: Tensor, bias: Tensor, extra: Tensor, extra_weight: Tensor, extra_bias: Tensor
) -> Tensor:
    return F.conv2d(extra, extra_weight, extra_bias) + F.conv2d(x, weight, bias, padding=1)


def plain(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return residual + F.conv2d(x, weight, bias, padding=1)


def split(sizes: Sizes) -> Convolution | None:
    """Return the convolution with split sums, or None if the product does not split them at these sizes."""
    choice = parts_choice(sizes.n * sizes.h * sizes.w, sizes.channels, sizes.outs)
    if sizes.extra or sizes.taps == 2 or sizes.fp8 or not choice.otherwise:
        return None
    layer = nn.Conv2d(sizes.channels, sizes.outs, 3, sizes.stride, padding=1, device="cuda")
    split_convolutions(layer)
    if sizes.stride == 2:
        return layer._conv_forward
    return lambda x, weight, bias, residual: residual + layer._conv_forward(x, weight, bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=21, help="number of graph replays for the median (default 21)")
    replays = parser.parse_args().replays
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != HOPPER:
        parser.error("PyTorch finds no Hopper GPU, which the kernel needs: run this on a machine with an H100 or H200")
    with one_line():
        print(torch.cuda.get_device_name(), *rows(replays), sep="\n")


def rows(replays: int) -> list[str]:
    """Return the lines of the table."""
    heads = [
        "n, h, w, in, out, further, taps, stride, e4m3",
        "ours us",
        "TFLOP/s",
        "compiled us",
        "split us",
        "tile, parts",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for sizes in tqdm([*SHAPES, *SKIPS, *UPSAMPLINGS, *STRIDES, *FP8], desc="measuring"):
        torch.compiler.reset()
        op, same = forms(sizes)
        functions = [torch.compile(same, dynamic=False)]
        if one := split(sizes):
            functions.append(torch.compile(one, dynamic=False))
        ours = time(op, sizes, replays)
        compiled, *splits = (time(function, replace(sizes, fp8=False), replays) for function in functions)
        products = sizes.phases * sizes.taps**2 * sizes.channels + sizes.extra
        operations = 2 * sizes.n * sizes.h * sizes.w * products * sizes.outs
        cells = [
            f"{ours:.1f}",
            f"{operations / ours / 1e6:.0f}",
            f"{compiled:.1f}",
            f"{splits[0]:.1f}" if splits else "-",
        ]
        tile = choose(sizes)
        cells.append(f"{tile.rows}x{tile.pictures}x{tile.columns}x{tile.outs} in {tile.parts}")
        lines.append(f"| {', '.join(map(str, astuple(sizes)))} | {' | '.join(cells)} |")
    return lines


def forms(sizes: Sizes) -> tuple[Convolution, Convolution]:
    """Return our op, and the same in PyTorch."""
    if sizes.taps == 2:
        return upsampled_convolution, upsample
    if sizes.stride == 2:
        return partial(convolution, stride=2), partial(F.conv2d, stride=2, padding=1)
    return (convolution_skip, plain_skip) if sizes.extra else (convolution, plain)


def time(function: Convolution, sizes: Sizes, replays: int) -> float:
    """Return the microseconds of a call."""
    n, h, w, outs = sizes.n, sizes.h, sizes.w, sizes.outs
    weights = rotating_inputs(sizes.phases * outs, sizes.channels, sizes.taps, sizes.taps)
    x, bias = (
        rotating_inputs(n, sizes.channels, sizes.stride * h, sizes.stride * w)[0],
        torch.randn(outs, device="cuda", dtype=torch.float16),
    )
    if sizes.fp8:
        x, weights = x.to(E4M3), [weight.to(E4M3) for weight in weights]
        function = partial(function, scales=torch.ones(outs, device="cuda"))
    others: list[Tensor] = []
    if sizes.extra:
        others = [rotating_inputs(n, sizes.extra, h, w)[0], rotating_inputs(outs, sizes.extra, 1, 1)[0], bias]
    elif sizes.taps == 3 and sizes.stride == 1:
        others = [rotating_inputs(n, outs, h, w)[0]]
    return measure([partial(function, x, weight, bias, *others) for weight in weights], replays)


if __name__ == "__main__":
    main()
