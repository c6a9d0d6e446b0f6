"""What the CUDA kernels for products have in common: their warpgroups, and their parameters."""

import ctypes

from torch import Tensor

from plugins.hopper.cuda_kernel import CudaKernel, programs
from plugins.hopper.parameters import tensor_map
from plugins.product.tiles import STEP, Sizes

ROWS = 64  # of a warpgroup's sums
WARPGROUPS = 3  # that multiply; another one loads
THREADS = 128 * (WARPGROUPS + 1)
REGISTERS = 160  # of a thread that multiplies; those that load leave them


def launch(
    kernel: CudaKernel,
    sizes: Sizes,
    factors: tuple[Tensor, Tensor],
    boxes: tuple[int, int],
    others: tuple[Tensor | None, ...],
    most: int | None = None,
) -> None:
    """Launch a kernel with one program per multiprocessor, but at most `most`.

    factors: x and weight; boxes: the rows of each that TMA loads at once; others: the kernel's pointers.
    """
    pairs = zip(factors, boxes, strict=True)
    values = [
        *(tensor_map(one.data_ptr(), one.shape, (sizes.depth, 1), (rows, STEP)) for one, rows in pairs),
        *(ctypes.c_void_p(None if one is None else one.data_ptr()) for one in others),
        *(ctypes.c_int(number) for number in (sizes.rows, sizes.columns)),
    ]
    device = factors[0].device
    kernel.launch(device, programs(device, most), values)
