"""What the product's kernel is compiled for."""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from plugins.hopper.compile import HOPPER, Kernel, cubin
from plugins.nvrtc import KernelError
from plugins.product.tiles import STEP, Sizes, Tile, choose

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProductKernel(Kernel):
    """A product.

    stats: whether it returns statistics of its rows; eps: of the norm of x, None for none; group: columns per group of
    the norm's statistics.
    """

    sizes: Sizes
    tile: Tile
    bias: bool = False
    residual: bool = False
    stats: bool = False
    eps: float | None = None
    group: int = STEP

    NAME = "canny2image_product"
    # bias, residual and result; statistics, column sums and shifts
    POINTERS = ("*fp16", "*fp16", "*fp16", "*fp32", "*fp32", "*fp32")

    def __post_init__(self) -> None:
        if self.stats and self.tile.width != STEP:
            raise ValueError(f"a kernel with statistics got a tile of {self.tile.width} columns, expected {STEP}")

    @property
    def boxes(self) -> list[list[int]]:
        """The shapes of TMA's loads: of x and of the weight."""
        return [[self.tile.rows, STEP], [self.tile.width // self.sizes.halves, STEP]]

    def constants(self) -> dict[str, int | float | None]:
        sizes, tile = self.sizes, self.tile
        return {
            "ALL_ROWS": sizes.rows, "DEPTH": sizes.depth, "ALL_COLUMNS": sizes.columns, "ROWS": tile.rows,
            "WIDTH": tile.width, "BLOCKS": tile.blocks, "STAGES": tile.stages, "PARTS": tile.parts,
            "BARRIERS": tile.barriers, "GATED": sizes.gated, "BIAS": self.bias, "RESIDUAL": self.residual,
            "STATS": self.stats, "NORM": self.eps is not None, "EPS": self.eps or 0.0,
            "GROUP": self.group,
        }  # fmt: skip

    def function(self) -> Any:
        from plugins.product.kernel import canny2image_product

        return canny2image_product


@cache
def runs_on(device: torch.device) -> bool:
    """Return whether the device is a Hopper GPU and the kernel compiles. Logs why not, once."""
    if torch.cuda.get_device_capability(device) != HOPPER:
        return False
    sizes = Sizes(1, STEP, STEP)
    try:
        cubin(ProductKernel(sizes, choose(sizes), bias=True, residual=True))
    except KernelError as error:
        log.warning("matrix products use cuBLAS and Triton, which are slower: %s", error)
        return False
    return True
