"""The arithmetic of the product kernel's indices, in PyTorch, and the sizes that tests use."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plugins.hopper import cuda_kernel
from plugins.hopper.compile import HOPPER
from plugins.hopper.cuda_kernel import CudaKernel
from plugins.nvrtc import KernelError
from plugins.product import op
from plugins.product.cuda import REGISTERS, WARPGROUPS
from plugins.product.tiles import STEP, Sizes, Tile
from tests.convolutions import box


def of_transformer(rows: int, width: int) -> list[Sizes]:
    """Return the products of a transformer: square, q with k and v, GEGLU, its end."""
    return [
        Sizes(rows, width, width),
        Sizes(rows, width, 3 * width),
        Sizes(rows, width, 4 * width, gated=True),
        Sizes(rows, 4 * width, width),
    ]


# The products of the transformers of Stable Diffusion 1.5 and of the small model, at 256x384 with guidance.
SD15 = [
    sizes for rows, width in ((3072, 320), (768, 640), (192, 1280), (48, 1280)) for sizes in of_transformer(rows, width)
]
SMALL = [sizes for rows, width in ((3072, 32), (768, 64), (192, 96), (48, 96)) for sizes in of_transformer(rows, width)]
# Of eight pictures, and others with work for a kernel that keeps its weights; the last have rows and columns beyond.
MANY_ROWS = [
    of_transformer(24576, 320)[2],
    Sizes(10001, 64, 72, gated=True),
    Sizes(8192, 64, 32, gated=True),  # fewer units than programs
    Sizes(20001, 128, 40, gated=True),
]
# Of eight and two pictures, and others with work for a kernel with large tiles; the last have rows beyond.
LARGE = [
    *(sizes for sizes in of_transformer(24576, 320) if not sizes.gated),
    *of_transformer(6144, 640),
    *of_transformer(1536, 1280)[1:3],
    *of_transformer(1536, 640)[1:3],
    Sizes(18001, 64, 160),
    Sizes(9000, 192, 320),
    Sizes(4500, 704, 320, gated=True),
    # More than one tile for some programs, the last of them with few rows.
    Sizes(1500, 512, 3840),
    Sizes(36001, 64, 160),
    Sizes(18001, 192, 320),
    Sizes(9001, 704, 320, gated=True),
]
ODD = [
    Sizes(1, 64, 64),
    Sizes(70, 192, 128),
    Sizes(300, 448, 192),
    Sizes(130, 128, 128, gated=True),
    # No multiples of 64. With fewer outputs, errors relative to PyTorch's would be a matter of chance.
    Sizes(7, 8, 8),
    Sizes(70, 24, 104),
    Sizes(33, 40, 72),
    Sizes(129, 104, 24, gated=True),
    Sizes(65, 72, 40, gated=True),
    Sizes(45, 1288, 328),
    Sizes(300, 328, 456, gated=True),
]


def emulate(tile: Tile, sizes: Sizes, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the product, with GEGLU if the sizes have gates, and how often each output was written."""
    columns, deep = tile.width // sizes.halves, STEP * tile.blocks
    result = torch.zeros(sizes.rows, sizes.columns, dtype=x.dtype)
    writes = torch.zeros(sizes.rows, sizes.columns, dtype=torch.int)
    steps, across = -(-sizes.depth // deep), -(-sizes.columns // columns)
    for number in range(tile.programs(sizes) // tile.parts):
        column, row = number % across * columns, number // across * tile.rows
        total = torch.zeros(tile.rows, tile.width, dtype=x.dtype)
        for part in range(tile.parts):
            for step in range(part * steps // tile.parts, (part + 1) * steps // tile.parts):
                starts = [(half * sizes.columns + column, step * deep) for half in range(sizes.halves)]
                weights = torch.cat([box(weight, start, (columns, deep)) for start in starts])
                total += box(x, (row, step * deep), (tile.rows, deep)) @ weights.T
        value, *gates = total.chunk(sizes.halves, dim=1)
        finished = value * F.gelu(gates[0]) if gates else value
        inside, within = min(tile.rows, sizes.rows - row), min(columns, sizes.columns - column)
        result[row : row + inside, column : column + columns] = finished[:inside, :within]
        writes[row : row + inside, column : column + columns] += 1
    return result, writes


def constants(file: Path, *names: str) -> list[int]:
    """Return the values of constants of a CUDA file."""
    found = dict(re.findall(r"\b([A-Z]+) = (\d+)\b", file.read_text()))
    return [int(found[name]) for name in names]


def choices(patch: pytest.MonkeyPatch, module: ModuleType, compiles: bool) -> list[str]:
    """Return the list of the launches to come on a Hopper GPU, of the module's kernel by name or of the "few" rows'."""
    used: list[str] = []

    def compile_kernel(*arguments: object) -> bytes:
        if not compiles:
            raise KernelError("no NVRTC")
        return b""

    name = module.__name__.split(".")[-1]
    patch.setattr(torch.cuda, "get_device_capability", lambda device: HOPPER)
    patch.setattr(cuda_kernel, "cubin", compile_kernel)
    patch.setattr(module, "runs_on", module.runs_on.__wrapped__)
    patch.setattr(module, "run", lambda *arguments: used.append(name))
    patch.setattr(op, "run_few", lambda *arguments: used.append("few"))
    return used


def check_registers(kernel: CudaKernel) -> None:
    """Assert that a kernel's warpgroups, one of which gives registers away, do not ask for more than there are."""
    found = re.search(r"setmaxnreg\.dec\.sync\.aligned\.u32 (\d+)", kernel.source.read_text())
    assert found
    entered = 65536 // kernel.threads // 8 * 8  # registers of each thread, before they are divided anew
    assert kernel.threads == 128 * (WARPGROUPS + 1)
    assert WARPGROUPS * REGISTERS + int(found[1]) <= (WARPGROUPS + 1) * entered
