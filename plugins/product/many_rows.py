"""GEGLU of many rows with the norm before it, as in batches, by a CUDA kernel that keeps its weights on the chip.

For eight pictures, GEGLU from 320 columns takes 87 us on an H200, 94 with the larger tiles of `large_tiles.py`, and 77
with cuBLAS, without norm and gate.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from plugins.hopper.cuda_kernel import ALIGNMENT, CudaKernel, runs
from plugins.product.cuda import REGISTERS, ROWS, THREADS, WARPGROUPS, launch
from plugins.product.tiles import STEP, Sizes, is_of_one_picture

SOURCE = Path(__file__).with_name("many_rows.cu")
WIDTH = 128  # weights that a program keeps
SHARED = 227 * 1024 - ALIGNMENT - 16384  # bytes for it; the rest is for barriers, vectors and parts of the result
FEWEST_STAGES, MOST_STAGES = 5, 8  # with fewer, larger tiles are faster
LEAST_UNITS = 2  # of work, in all programs, times the depth: with fewer, loading the weights takes too much of the time


def stages(depth: int) -> int:
    """Return the number of steps of rows that each warpgroup has in shared memory."""
    return min(MOST_STAGES, (SHARED - 2 * WIDTH * depth) // (2 * ROWS * STEP * WARPGROUPS))


def fits(sizes: Sizes) -> bool:
    """Return whether the kernel supports a product after a norm, and was the fastest at such sizes."""
    units = -(-sizes.rows // ROWS) * -(-sizes.width // WIDTH)
    supported = sizes.gated and sizes.depth % STEP == 0 and stages(sizes.depth) >= FEWEST_STAGES
    return supported and not is_of_one_picture(sizes) and units >= LEAST_UNITS * sizes.depth


@cache
def runs_on(device: torch.device) -> bool:
    """Return whether the device is a Hopper GPU and the kernel compiles. Logs why not, once."""
    kernel = make_kernel(Sizes(ROWS, STEP, WIDTH // 2, gated=True), 1e-5)
    return runs(kernel, device, "GEGLU of many rows uses another kernel, which is slower")


def make_kernel(sizes: Sizes, eps: float, group: int = STEP) -> CudaKernel:
    """Return the kernel. eps: of the norm; group: columns per group of its statistics."""
    numbers = {"DEPTH": sizes.depth, "STAGES": stages(sizes.depth), "REGISTERS": REGISTERS, "GROUP": group}
    constants = (*((name, str(number)) for name, number in numbers.items()), ("EPS", f"{eps!r}f"))
    shared = ALIGNMENT + 2 * WIDTH * sizes.depth + WARPGROUPS * stages(sizes.depth) * 2 * ROWS * STEP
    return CudaKernel(SOURCE, "canny2image_product_of_many_rows", THREADS, shared, constants)


def run(kernel: CudaKernel, sizes: Sizes, x: Tensor, weight: Tensor, others: tuple[Tensor, ...]) -> None:
    """Launch the kernel. others: statistics, sums, shifts and result, as `norm_geglu` checks them."""
    launch(kernel, sizes, (x, weight), (ROWS, WIDTH // 2), others)
