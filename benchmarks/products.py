"""python -m benchmarks.products: times the products of the UNet's transformers on a Hopper GPU.

Ours include the norm before or bias, residual, statistics or GEGLU after the product; beside them is the same by
torch.compile, with cuBLAS and kernels of its own, but without statistics. Sizes are those of Stable Diffusion 1.5 at
256x384 with guidance, for one to eight pictures. Times are per call: medians over replays of a CUDA graph of 40 calls,
divided by 40. The calls alternate between inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.group_norm import CALLS, EPS, ROTATING, measure
from benchmarks.hopper_table import main
from plugins.product import large_tiles
from plugins.product.op import norm_geglu, norm_product, product, product_stats
from plugins.product.statistics import statistics
from plugins.product.tiles import Sizes

LEVELS = ((3072, 320), (768, 640), (192, 1280), (48, 1280))  # rows for one picture, and the transformer's width


@dataclass(frozen=True)
class Layer:
    """A product of a transformer: depth and columns in units of its width, and the number of such products."""

    name: str
    depth: int
    columns: int
    ours: Callable[..., object]
    plain: Callable[..., Tensor]
    count: int = 1

    def sizes(self, rows: int, width: int) -> Sizes:
        return Sizes(rows, self.depth * width, self.columns * width, gated=self.ours is norm_geglu)


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(F.layer_norm(x, x.shape[1:], eps=EPS), weight)


def normed_geglu(x: Tensor, weight: Tensor) -> Tensor:
    values, gates = normed(x, weight).chunk(2, dim=1)
    return values * F.gelu(gates)


def added(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return F.linear(x, weight, bias) + residual


LAYERS = (
    Layer("first, with statistics", 1, 1, product_stats, F.linear),
    Layer("q, k and v, with norm", 1, 3, norm_product, normed),
    Layer("after attention, with residual and statistics", 1, 1, product_stats, added, count=2),
    Layer("q, with norm", 1, 1, norm_product, normed),
    Layer("GEGLU, with norm", 1, 4, norm_geglu, normed_geglu),
    Layer("end of feed-forward, with residual", 4, 1, product, added),
    Layer("last, with residual", 1, 1, product, added),
)


def rows(pictures: Sequence[int], replays: int) -> list[str]:
    """Return the lines of the table."""
    lines = ["| pictures, rows, width | product | ours us | TFLOP/s | compiled us |", "|---" * 5 + "|"]
    for count in tqdm(pictures, desc="measuring"):
        for rows_of_one, width in LEVELS:
            sums = [0.0, 0.0]
            size = f"{count}, {count * rows_of_one}, {width}"
            for layer in LAYERS:
                torch.compiler.reset()
                times = time(layer, count * rows_of_one, width, replays)
                sums = [total + layer.count * one for total, one in zip(sums, times, strict=True)]
                sizes = layer.sizes(count * rows_of_one, width)
                rate = 2 * sizes.rows * sizes.depth * sizes.width / times[0] / 1e6
                lines.append(f"| {size} | {layer.name} | {times[0]:.1f} | {rate:.0f} | {times[1]:.1f} |")
            lines.append(f"| {size} | all of a transformer | {sums[0]:.1f} | | {sums[1]:.1f} |")
    return lines


def time(layer: Layer, count: int, width: int, replays: int) -> tuple[float, float]:
    """Return microseconds per call, ours and torch.compile's, of a product of `count` rows."""
    sizes = layer.sizes(count, width)
    size = 2 * (sizes.rows * (sizes.depth + sizes.columns) + sizes.width * sizes.depth)  # bytes
    inputs = [arguments(layer, count, width, "cuda") for _ in range(min(CALLS, max(2, -(-ROTATING // size))))]
    compiled = torch.compile(layer.plain, dynamic=False)
    calls = [partial(layer.ours, *ours) for ours, _ in inputs], [partial(compiled, *plain) for _, plain in inputs]
    return measure(calls[0], replays), measure(calls[1], replays)


def arguments(layer: Layer, count: int, width: int, device: str) -> tuple[list[object], list[Tensor]]:
    """Return arguments of our op and of the function in PyTorch."""
    sizes = layer.sizes(count, width)
    x, weight = (torch.randn(rows, sizes.depth, device=device).half() for rows in (count, sizes.width))
    if layer.ours in (norm_product, norm_geglu):
        of_columns = weight.float().sum(dim=1), torch.zeros(sizes.width, device=device)
        before = Sizes(count, sizes.depth, sizes.depth)  # the product that returns the statistics
        stats = statistics(x, large_tiles.stats_width(before))
        return [x, stats, weight, *of_columns, EPS], [x, weight]
    both = [x, weight, torch.randn(sizes.width, device=device).half()]
    if layer.plain is added:
        both.append(torch.randn(count, sizes.columns, device=device).half())
    return [*both], both


if __name__ == "__main__":
    main(__doc__, rows)
