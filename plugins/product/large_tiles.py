"""Products of many rows, and GEGLU of one picture, by a CUDA kernel with larger tiles than the one for few rows has.

By an estimate (docs/performance.md), the cache delivers the factors of 192 rows and 160 columns in about the time in
which tensor cores multiply them. With 128 rows and 64 columns, which the kernel for few rows needs for 320 columns and
for statistics, it takes twice as long.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from plugins.hopper.compile import PROCESSORS
from plugins.hopper.cuda_kernel import CudaKernel, runs
from plugins.product.cuda import ALIGNMENT, REGISTERS, ROWS, THREADS, WARPGROUPS, launch
from plugins.product.tiles import STEP, WIDE, Sizes, is_of_one_picture

SOURCE = Path(__file__).with_name("large_tiles.cu")
STAGES = 4
SHARED = ALIGNMENT + STAGES * 2 * STEP * (WARPGROUPS * ROWS + WIDE)  # bytes
LEAST_BUSY = 0.7  # of the multiprocessors, on average: with fewer, smaller tiles are faster


def tiles(sizes: Sizes) -> int:
    return -(-sizes.rows // (WARPGROUPS * ROWS)) * -(-sizes.width // WIDE)


def fits(sizes: Sizes) -> bool:
    """Return whether the kernel supports a product, and was not slower than the one for few rows at such sizes."""
    rounds = -(-tiles(sizes) // PROCESSORS)
    supported = sizes.depth % STEP == 0 and sizes.width % WIDE == 0
    enough = tiles(sizes) >= LEAST_BUSY * PROCESSORS * rounds
    return supported and enough and (sizes.gated or not is_of_one_picture(sizes))


def stats_width(sizes: Sizes) -> int:
    """Return the columns per group of the statistics that a product returns."""
    return WIDE if fits(sizes) else STEP


@cache
def runs_on(device: torch.device) -> bool:
    """Return whether the device is a Hopper GPU and the kernel compiles. Logs why not, once."""
    kernel = make_kernel(Sizes(ROWS, STEP, WIDE), residual=True, stats=True)
    return runs(kernel, device, "products with large tiles use another kernel, which is slower")


def make_kernel(
    sizes: Sizes, residual: bool = False, stats: bool = False, eps: float | None = None, group: int = STEP
) -> CudaKernel:
    """Return the kernel.

    residual: whether one is added; stats: whether it returns statistics; eps: of the norm before the product, None for
    none; group: columns per group of the norm's statistics. Gates need a norm, and neither of the first two.
    """
    numbers = {
        "DEPTH": sizes.depth, "STAGES": STAGES, "REGISTERS": REGISTERS, "NORM": int(eps is not None), "GROUP": group,
        "GATED": int(sizes.gated), "RESIDUAL": int(residual), "STATS": int(stats),
    }  # fmt: skip
    constants = (*((name, str(number)) for name, number in numbers.items()), ("EPS", f"{eps or 0.0!r}f"))
    return CudaKernel(SOURCE, "canny2image_product_of_large_tiles", THREADS, SHARED, constants)


def run(kernel: CudaKernel, sizes: Sizes, x: Tensor, weight: Tensor, others: tuple[Tensor | None, ...]) -> None:
    """Launch the kernel.

    others: the norm's statistics, sums, shifts or the bias, residual, result and its statistics, as the ops check them.
    """
    boxes = WARPGROUPS * ROWS, WIDE // sizes.halves
    launch(kernel, sizes, (x, weight), boxes, others, most=tiles(sizes))
