"""What the kernel of the zero convolutions is compiled for."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from plugins.hopper.compile import Kernel

STEP = 64  # channels must be multiples


@dataclass(frozen=True)
class Layer:
    """Sizes of one of the convolutions: channels, pixels of a map, and maps of its input."""

    channels: int
    pixels: int
    maps: int


@dataclass(frozen=True)
class Tile:
    """The results of a program, rows x columns. stages: steps of STEP channels in shared memory, at most `shared`."""

    rows: int = 64
    columns: int = 128
    stages: int = 4
    warps: int = 4
    cluster: int = 1

    @property
    def shared(self) -> int:
        # Triton also puts the results there, to store whole rows.
        return max(self.stages * 2 * STEP * (self.rows + self.columns), 4 * self.rows * self.columns) + 1024


@dataclass(frozen=True)
class ZeroConvolutions(Kernel):
    layers: tuple[Layer, ...]
    pictures: int
    tile: Tile = Tile()

    NAME = "canny2image_zero_convolutions"
    POINTERS = ()
    GLUON = False

    @property
    def boxes(self) -> list[list[int]]:
        return []

    @property
    def pointers(self) -> tuple[str | tuple[str, ...], ...]:
        """The types of inputs, weights, biases and results, and of the factors."""
        return *((("*fp16",) * len(self.layers),) * 4), "*fp16"

    @property
    def options(self) -> dict[str, int]:
        return {**super().options, "num_stages": self.tile.stages}

    @property
    def starts(self) -> list[int]:
        """The first program of each layer, and the number of all programs."""
        counts = (self._tiles(layer.pixels * self.pictures, layer.channels) for layer in self.layers)
        return [0, *accumulate(counts)]

    def constants(self) -> dict[str, Any]:
        layers, tile = self.layers, self.tile
        return {
            "STARTS": tuple(self.starts[:-1]),
            "CHANNELS": tuple(layer.channels for layer in layers),
            "PIXELS": tuple(layer.pixels for layer in layers),
            "X_ROWS": tuple(layer.pixels * layer.maps for layer in layers),
            "PICTURES": self.pictures, "ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": STEP,
        }  # fmt: skip

    def function(self) -> Any:
        from plugins.zero_convolutions.kernel import canny2image_zero_convolutions

        return canny2image_zero_convolutions

    def _tiles(self, rows: int, columns: int) -> int:
        return -(-rows // self.tile.rows) * -(-columns // self.tile.columns)
