"""Chooses how the programs of a convolution share its work: the tile of outputs per program, and the parts of a sum."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

STEP = 64  # channels per step of a sum; in- and output channels must be multiples
PROCESSORS = 132  # multiprocessors of an H100 or H200; each runs one program at a time
# Programs that run at a time, by the size of their cluster. Clusters of four do not fill the GPU: their multiprocessors
# are neighbours.
AT_A_TIME = {1: PROCESSORS, 2: PROCESSORS, 4: 120}
MOST_WORK = 16 * 32 * 48 * 320  # outputs; for more, cuDNN's convolution and a kernel for bias and residual are as fast
NARROW = 16  # columns of a map; for 16 narrower maps cuDNN is faster


@dataclass(frozen=True)
class Sizes:
    """Sizes of a convolution: n maps [h, w, channels] -> n maps [h, w, outs]."""

    n: int
    h: int
    w: int
    channels: int
    outs: int


@dataclass(frozen=True)
class Tile:
    """The outputs of one program, rows x pictures x columns x outs, and the number of parts into which sums are split.

    The programs that compute the parts of a tile form a cluster. stages: steps whose inputs are in shared memory.
    """

    rows: int
    pictures: int
    columns: int
    outs: int
    stages: int
    parts: int = 1

    @property
    def pixels(self) -> int:
        return self.rows * self.pictures * self.columns

    @property
    def warps(self) -> int:
        return self.outs // 16

    @property
    def cluster(self) -> int:
        return self.parts

    @property
    def step_bytes(self) -> int:
        """The inputs of a step: weights of three rows, and the pixels with a row above and below."""
        return 2 * STEP * (3 * self.outs + (self.rows + 2) * self.pictures * self.columns)

    @property
    def shared(self) -> int:
        """Bytes of shared memory: the stages and a barrier for each."""
        return self.stages * (self.step_bytes + 16)

    def programs(self, sizes: Sizes) -> int:
        columns, rows = -(-sizes.w // self.columns), -(-sizes.h // self.rows)
        return columns * rows * -(-sizes.n // self.pictures) * (sizes.outs // self.outs) * self.parts

    def estimate(self, sizes: Sizes) -> float:
        """Return about how many microseconds an H200 needs: fitted to 174 times of 25 sizes, most within 8%."""
        work = self.pixels * self.outs / 8192
        steps = -(-3 * (sizes.channels // STEP) // self.parts)
        exchange = 1.7 if self.parts > 1 else 0.0
        waves = -(-self.programs(sizes) // AT_A_TIME[self.parts])
        return 0.9 + waves * (1.0 + steps * max(self.step_bytes / 85_000, 0.46 * work) + work + exchange)


# The best of those tried on an H200, for maps of 4x6 to 32x48 pixels and 320 to 2560 channels.
TILES = (
    Tile(4, 2, 8, 64, stages=6),
    Tile(8, 2, 4, 128, stages=3),
    Tile(8, 2, 8, 64, stages=4),
    Tile(8, 1, 16, 64, stages=4),
    Tile(16, 1, 8, 64, stages=4),
    Tile(16, 1, 16, 64, stages=3),
    Tile(16, 2, 8, 64, stages=3),
)


def fits(sizes: Sizes) -> bool:
    """Return whether our kernel computes a 3x3 convolution with stride 1, and cuDNN is not faster."""
    if sizes.w < NARROW and sizes.n > 8:
        return False
    outputs = sizes.n * sizes.h * sizes.w * sizes.outs
    return sizes.channels % STEP == 0 and sizes.outs % STEP == 0 and outputs <= MOST_WORK


@cache
def choose(sizes: Sizes) -> Tile:
    """Return the tile with the lowest estimate. Channels must be multiples of STEP. Cached, as each launch asks."""
    return min(candidates(sizes.outs), key=lambda tile: tile.estimate(sizes))


def candidates(outs: int) -> Iterator[Tile]:
    """Yield the tiles, in one to four parts, that divide the output channels."""
    for tile in TILES:
        for parts in (1, 2, 4):
            if outs % tile.outs == 0:
                yield replace(tile, parts=parts)
