"""Products of many rows, and GEGLU of one picture, by a CUDA kernel with larger tiles than the one for few rows has.

By an estimate (docs/performance.md), the cache delivers the factors of 192 rows and 160 columns in about the time in
which tensor cores multiply them. With 128 rows and 64 columns, which the kernel for few rows needs for 320 columns and
for statistics, it takes twice as long.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from plugins.hopper.compile import busy, rounds
from plugins.hopper.cuda_kernel import ALIGNMENT, CudaKernel, runs
from plugins.product.cuda import REGISTERS, ROWS, THREADS, WARPGROUPS, launch
from plugins.product.tiles import STEP, WIDE, Sizes, is_of_one_picture

SOURCE = Path(__file__).with_name("large_tiles.cu")
STAGES = 4
NARROWER = 128  # columns of tiles with which some products after a norm keep more multiprocessors busy
LEAST_BUSY = 0.7  # of the multiprocessors, on average: with fewer, smaller tiles are faster


def tile_width(sizes: Sizes, norm: bool = False) -> int | None:
    """Return the columns of a product's tiles, or None where the kernel for few rows is used.

    None stands for sizes that the kernel does not support, or at which it was slower. norm: whether a norm precedes the
    product.
    """
    if sizes.depth % STEP or (is_of_one_picture(sizes) and not sizes.gated):
        return None
    widths = (WIDE, NARROWER) if norm and not sizes.gated else (WIDE,)
    filling = [width for width in widths if sizes.width % width == 0 and busy(_tiles(sizes, width)) >= LEAST_BUSY]
    return min(filling, key=lambda width: width * rounds(_tiles(sizes, width)), default=None)


def _tiles(sizes: Sizes, width: int) -> int:
    return -(-sizes.rows // (WARPGROUPS * ROWS)) * (sizes.width // width)


def stats_width(sizes: Sizes) -> int:
    """Return the columns per group of the statistics that a product returns."""
    return tile_width(sizes) or STEP


@cache
def runs_on(device: torch.device) -> bool:
    """Return whether the device is a Hopper GPU and the kernel compiles. Logs why not, once."""
    kernel = make_kernel(Sizes(ROWS, STEP, WIDE), residual=True, stats=True)
    return runs(kernel, device, "products with large tiles use another kernel, which is slower")


def make_kernel(
    sizes: Sizes,
    width: int = WIDE,
    residual: bool = False,
    stats: bool = False,
    eps: float | None = None,
    group: int = STEP,
) -> CudaKernel:
    """Return the kernel.

    width: of its tiles; residual: whether one is added; stats: whether it returns statistics; eps: of the norm before
    the product, None for none; group: columns per group of the norm's statistics. Gates need a norm, and neither
    residual nor statistics.
    """
    numbers = {
        "DEPTH": sizes.depth, "TILE_WIDTH": width, "STAGES": STAGES, "REGISTERS": REGISTERS, "GROUP": group,
        "NORM": int(eps is not None), "GATED": int(sizes.gated), "RESIDUAL": int(residual), "STATS": int(stats),
    }  # fmt: skip
    constants = (*((name, str(number)) for name, number in numbers.items()), ("EPS", f"{eps or 0.0!r}f"))
    shared = ALIGNMENT + STAGES * 2 * STEP * (WARPGROUPS * ROWS + width)
    return CudaKernel(SOURCE, "canny2image_product_of_large_tiles", THREADS, shared, constants)


def run(
    kernel: CudaKernel, sizes: Sizes, width: int, x: Tensor, weight: Tensor, others: tuple[Tensor | None, ...]
) -> None:
    """Launch the kernel.

    width: of its tiles; others: the norm's statistics, sums, shifts or the bias, residual, result and its statistics,
    as the ops check them.
    """
    boxes = WARPGROUPS * ROWS, width // sizes.halves
    launch(kernel, sizes, (x, weight), boxes, others, most=_tiles(sizes, width))
