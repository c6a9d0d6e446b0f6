"""Chooses how the programs of a convolution share its work: the tile of outputs per program, and the parts of a sum."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from plugins.hopper.compile import PROCESSORS

STEP = 64  # channels per step of a sum, twice as many if they are e4m3: 128 bytes
ALIGNED, ALIGNED_FP8 = 8, 16  # input channels must be multiples, because TMA reads pixels from multiples of 16 bytes on
# Programs that run at a time, one on each multiprocessor, by the size of their cluster. Clusters of four do not fill
# the GPU: their multiprocessors are neighbours.
AT_A_TIME = {1: PROCESSORS, 2: PROCESSORS, 4: 120}
PARTS = 1, 2, 4
LEAST_UPSAMPLED, MOST_UPSAMPLED = 2 * 8 * 12, 8 * 128 * 192 * 512  # pixels of small maps, and outputs, as measured
MOST_WORK = 128 * 192 * 256  # outputs; for more, cuDNN's convolution and a kernel for bias and residual are as fast
ONE_PICTURE = 2  # maps, with guidance
MOST_OF_SEVERAL = 8 * 64 * 96 * 512  # outputs of more maps
FEW_MAPS = 8
NARROW = 16  # columns of a map; for more narrower maps than FEW_MAPS, and a stride of 2, cuDNN is faster
SMALL, MOST_CHANNELS = 48, 1280  # as it is for more channels than these and maps of fewer pixels


def up(number: int, unit: int) -> int:
    """Return how many units hold a number."""
    return -(-number // unit)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a convolution: n maps [h, w, channels] -> n maps [h, w, outs].

    extra: channels of a map whose 1x1 convolution is added. taps: rows and columns of the kernel; if they are 2, it has
    the four phases of an upsampling, and the results are [2 * h, 2 * w, outs]. stride: if it is 2, the maps have 2 * h
    or 2 * h - 1 rows, and as many columns for w.
    """

    n: int
    h: int
    w: int
    channels: int
    outs: int
    extra: int = 0
    taps: int = 3
    stride: int = 1
    fp8: bool = False

    @property
    def aligned(self) -> int:
        """What the input channels must be multiples of."""
        return ALIGNED_FP8 if self.fp8 else ALIGNED

    @property
    def phases(self) -> int:
        return 4 if self.taps == 2 else 1

    @property
    def computed(self) -> int:
        """Output channels that are computed, with those beyond the last."""
        return STEP * up(self.outs, STEP)


@dataclass(frozen=True)
class Tile:
    """The outputs of one program, rows x pictures x columns x outs, and the number of parts into which sums are split.

    The programs that compute the parts of a tile form a cluster. stages: steps whose inputs are in shared memory. fp8:
    whether these are e4m3.
    """

    rows: int
    pictures: int
    columns: int
    outs: int
    stages: int
    parts: int = 1
    taps: int = 3
    stride: int = 1
    fp8: bool = False

    @property
    def step(self) -> int:
        """Channels per step of a sum."""
        return 2 * STEP if self.fp8 else STEP

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
        """The inputs of a step: weights of a kernel's column, and the pixels with the rows above and below."""
        rows = self.rows + (self.taps - 1) * (1 if self.stride == 1 else self.rows)
        return 2 * STEP * (self.taps * self.outs + rows * self.pictures * self.columns)

    @property
    def extra_bytes(self) -> int:
        """The inputs of an extra step."""
        return 2 * STEP * (self.outs + self.pixels)

    @property
    def shared(self) -> int:
        """Bytes of shared memory: the stages and a barrier for each."""
        return self.stages * (self.step_bytes + 16)

    def programs(self, sizes: Sizes) -> int:
        blocks = up(sizes.w, self.columns) * up(sizes.h, self.rows) * up(sizes.n, self.pictures)
        return blocks * sizes.phases * up(sizes.outs, self.outs) * self.parts

    def estimate(self, sizes: Sizes) -> float:
        """Return about how many microseconds an H200 needs: fitted to 174 times of 25 sizes, most within 8%."""
        work = self.pixels * self.outs / 8192
        steps = up(self.taps * up(sizes.channels, self.step), self.parts)
        extra_steps = up(up(sizes.extra, STEP), self.parts)
        sums = steps * max(self.step_bytes / 85_000, 0.153 * self.taps * work)
        sums += extra_steps * max(self.extra_bytes / 85_000, 0.153 * work)
        exchange = 1.7 if self.parts > 1 else 0.0
        waves = up(self.programs(sizes), AT_A_TIME[self.parts])
        return 0.9 + waves * (1.0 + sums + work + exchange)


# The best of those tried on an H200, for maps of 4x6 to 32x48 pixels and 320 to 2560 channels.
TILES = (
    Tile(4, 2, 8, 64, stages=6),
    Tile(8, 2, 4, 128, stages=3),
    Tile(8, 2, 8, 64, stages=4),
    Tile(8, 1, 16, 64, stages=4),
    Tile(16, 1, 8, 64, stages=4),
    Tile(16, 1, 16, 64, stages=3),
    Tile(16, 2, 8, 64, stages=3),
    Tile(4, 4, 8, 64, stages=4),  # this and the next for narrow maps of several pictures
    Tile(8, 4, 4, 64, stages=4),
)

# For the phases of upsamplings, of 8x12 to 128x192 pixels.
PHASE_TILES = (
    Tile(8, 2, 4, 128, stages=4, taps=2),
    Tile(8, 2, 8, 64, stages=6, taps=2),
    Tile(16, 1, 8, 64, stages=6, taps=2),
    Tile(16, 1, 16, 64, stages=3, taps=2),
    Tile(16, 2, 8, 64, stages=3, taps=2),
    Tile(16, 1, 16, 128, stages=3, taps=2),
    Tile(8, 4, 4, 128, stages=3, taps=2),  # for narrow maps of several pictures
)

# For a stride of 2. A step takes three times the pixels of a tile.
STRIDE_TILES = (
    Tile(4, 2, 8, 64, stages=4, stride=2),
    Tile(8, 2, 4, 128, stages=3, stride=2),
    Tile(8, 2, 8, 64, stages=3, stride=2),
    Tile(8, 1, 16, 64, stages=3, stride=2),
    Tile(16, 1, 8, 64, stages=3, stride=2),
)

FP8_TILES = tuple(replace(tile, fp8=True) for tile in TILES)  # for e4m3


def fits(sizes: Sizes) -> bool:
    """Return whether our kernel computes a convolution.

    The bounds on the work were measured with a stride of 1 and channels that are multiples of STEP.
    """
    if sizes.channels % sizes.aligned or sizes.extra % ALIGNED:
        return False
    if sizes.fp8:  # there is no other kernel
        return True
    if sizes.taps == 2:
        return _upsamples(sizes)
    if sizes.n > FEW_MAPS:
        strided, deep = sizes.stride > 1, sizes.channels > MOST_CHANNELS
        if (strided and sizes.w < NARROW) or (deep and is_small(sizes)):
            return False
    outputs = sizes.n * sizes.h * sizes.w * sizes.computed
    return outputs <= (MOST_WORK if sizes.n <= ONE_PICTURE else MOST_OF_SEVERAL)


def _upsamples(sizes: Sizes) -> bool:
    """Return whether the phases of an upsampling are faster than cuDNN's, and than a 3x3 convolution of the large map.

    On an H200 they take 16 to 86 us at the sizes of one picture (cuDNN's phases with rearranging 35 to 116). At two
    maps of 4x6, the whole 3x3 convolution takes less time than reading the phases' kernels, 16/9 of the weights. At 16
    such maps, too (69 us after enlarging, instead of 108), because half of a tile is outside of them.
    """
    pixels = sizes.n * sizes.h * sizes.w
    return not is_small(sizes) and pixels >= LEAST_UPSAMPLED and 4 * pixels * sizes.computed <= MOST_UPSAMPLED


def is_small(sizes: Sizes) -> bool:
    """Return whether a map is smaller than the tiles for several of them."""
    return sizes.h * sizes.w < SMALL


@cache
def choose(sizes: Sizes) -> Tile:
    """Return the tile with the lowest estimate. Cached, as each launch asks."""
    return min(candidates(sizes), key=lambda tile: tile.estimate(sizes))


def candidates(sizes: Sizes) -> Iterator[Tile]:
    """Yield the tiles, in one to four parts, that have the least output channels beyond the last."""
    tiles = FP8_TILES if sizes.fp8 else TILES
    for tile in PHASE_TILES if sizes.taps == 2 else STRIDE_TILES if sizes.stride == 2 else tiles:
        for parts in PARTS:
            if sizes.computed % tile.outs == 0:
                yield replace(tile, parts=parts)
