"""What the product's kernel is compiled for."""

from dataclasses import dataclass
from typing import Any

from plugins.hopper.compile import Kernel
from plugins.product.tiles import STEP, Sizes, Tile


@dataclass(frozen=True)
class ProductKernel(Kernel):
    sizes: Sizes
    tile: Tile
    bias: bool
    residual: bool

    NAME = "hopper_product"

    @property
    def boxes(self) -> list[list[int]]:
        """The shapes of TMA's loads: of x and of the weight."""
        tile = self.tile
        rows, columns = tile.rows, tile.width // (2 if self.sizes.gated else 1)
        return [
            [rows // (tile.share if tile.share_rows else 1), STEP],
            [columns // (1 if tile.share_rows else tile.share), STEP],
        ]

    @property
    def declared(self) -> list[list[int]]:
        """The kernel does not use Triton's loads, whose shapes must be powers of two."""
        return [[8, STEP]] * 2

    def constants(self) -> dict[str, int | bool]:
        sizes, tile = self.sizes, self.tile
        return {
            "ALL_ROWS": sizes.rows, "DEPTH": sizes.depth, "ALL_COLUMNS": sizes.columns,
            "BANDS": tile.rows // tile.band, "BAND": tile.band, "WIDTH": tile.width, "BLOCKS": tile.blocks,
            "STAGES": tile.stages, "PARTS": tile.parts, "SHARE": tile.share, "SHARE_ROWS": tile.share_rows,
            "BARRIERS": tile.barriers, "GATED": sizes.gated, "BIAS": self.bias, "RESIDUAL": self.residual,
        }  # fmt: skip

    def function(self) -> Any:
        from plugins.product.kernel import hopper_product

        return hopper_product
