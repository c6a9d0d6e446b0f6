"""What the kernel of the zero convolutions is compiled for."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from plugins.hopper.compile import Kernel, Programs

STEP = 64  # channels that are summed at once
ALIGNED = 8  # channels must be multiples, so that 16 bytes are loaded at once


@dataclass(frozen=True)
class Tile:
    """The results of a program, rows x columns. stages: steps of STEP channels in shared memory."""

    rows: int
    columns: int
    stages: int

    @property
    def shared(self) -> int:
        """Bytes of shared memory: of the steps, or of float32 sums, which replace them so that rows are stored."""
        return max(self.stages * 2 * STEP * (self.rows + self.columns), 4 * self.rows * (self.columns + 8))


def choose(channels: int) -> Tile:
    """Return the tile for a convolution: the best of 52 combinations tried on an H200, for one picture of 256x384.

    Three programs share a multiprocessor. With four stages, two do, and the kernel took 20.6 us instead of 18.7.
    """
    return Tile(64, 128, 3) if channels > 640 else Tile(128, 64, 3)


@dataclass(frozen=True)
class Layer:
    """Sizes of one of the convolutions: channels, pixels of a map, and maps of its input."""

    channels: int
    pixels: int
    maps: int
    tile: Tile

    def programs(self, pictures: int) -> int:
        return -(-self.pixels * pictures // self.tile.rows) * -(-self.channels // self.tile.columns)


@dataclass(frozen=True)
class ZeroConvolutions(Kernel):
    layers: tuple[Layer, ...]
    pictures: int
    warps: int = 4

    NAME = "canny2image_zero_convolutions"
    POINTERS = ()
    GLUON = False

    @property
    def tile(self) -> Programs:  # type: ignore[override]
        return Programs(self.warps, max(layer.tile.shared for layer in self.layers))

    @property
    def boxes(self) -> list[list[int]]:
        return []

    @property
    def pointers(self) -> tuple[str | tuple[str, ...], ...]:
        """The types of inputs, weights, biases and results, and of the factors."""
        return *((("*fp16",) * len(self.layers),) * 4), "*fp16"

    @property
    def starts(self) -> list[int]:
        """The first program of each layer, and the number of all programs."""
        return [0, *accumulate(layer.programs(self.pictures) for layer in self.layers)]

    def constants(self) -> dict[str, Any]:
        layers = self.layers
        kinds = sorted({(layer.channels, layer.tile) for layer in layers}, key=str)
        return {
            "STARTS": tuple(self.starts[:-1]),
            "PIXELS": tuple(layer.pixels for layer in layers),
            "MAPS": tuple(layer.maps for layer in layers),
            "KINDS": tuple(kinds.index((layer.channels, layer.tile)) for layer in layers),
            "CHANNELS": tuple(channels for channels, _ in kinds),
            "ROWS": tuple(tile.rows for _, tile in kinds),
            "COLUMNS": tuple(tile.columns for _, tile in kinds),
            "STAGES": tuple(tile.stages for _, tile in kinds),
            "PICTURES": self.pictures, "DEPTH": STEP,
        }  # fmt: skip

    def function(self) -> Any:
        from plugins.zero_convolutions.kernel import canny2image_zero_convolutions

        return canny2image_zero_convolutions
