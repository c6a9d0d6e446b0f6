"""Chooses how the programs of a product share its work: the tile of sums per program, and the parts of a sum."""

from dataclasses import dataclass, replace

from plugins.hopper.compile import PROCESSORS

STEP = 64  # of the depth, and columns with statistics of their own
WIDE = 160  # columns of the larger tiles of `large_tiles.py`, each with statistics of its own
ALIGNED = 8  # depth and columns must be multiples, because TMA needs rows of multiples of 16 bytes
MOST_VALUES = 2**31  # of a matrix: the kernel's offsets have 32 bits


@dataclass(frozen=True)
class Sizes:
    """Sizes of a product: x [rows, depth], weight [columns, depth] or, with gates, [2 * columns, depth]."""

    rows: int
    depth: int
    columns: int
    gated: bool = False

    @property
    def halves(self) -> int:
        """Rows of the weight per column: values and gates."""
        return 2 if self.gated else 1

    @property
    def width(self) -> int:
        """Rows of the weight."""
        return self.columns * self.halves


@dataclass(frozen=True)
class Tile:
    """The sums of one program, rows x width, and the number of parts into which they are split.

    width: of values and gates together. The programs that compute the parts of a tile form a cluster. stages: steps
    whose inputs are in shared memory. blocks: times STEP of the depth per step.
    """

    rows: int
    width: int
    stages: int
    parts: int = 1
    blocks: int = 1
    warps: int = 4

    @property
    def cluster(self) -> int:
        return self.parts

    @property
    def step_bytes(self) -> int:
        return 2 * STEP * self.blocks * (self.rows + self.width)

    @property
    def barriers(self) -> int:
        """Bytes of shared memory before the barriers: of the stages, or of a program's sums, which replace them."""
        return max(self.stages * self.step_bytes, 4 * self.rows * (self.width + 8))

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return self.barriers + 8 * self.stages

    def programs(self, sizes: Sizes) -> int:
        return -(-sizes.rows // self.rows) * -(-sizes.width // self.width) * self.parts


def groups(columns: int, width: int = STEP) -> int:
    """Return how many groups of columns have statistics of their own: `width` columns each, the last perhaps fewer."""
    return -(-columns // width)


def group_width(columns: int, count: int) -> int:
    """Return the columns per group of `count` groups. Raises ValueError if no kernel returns so many."""
    if count == groups(columns):
        return STEP
    if count * WIDE == columns:
        return WIDE
    some = f" or {columns // WIDE}" if columns % WIDE == 0 else ""
    raise ValueError(
        f"a product after a norm got statistics of {count} groups of columns, expected {groups(columns)}{some} for "
        f"{columns} columns: pass those that product_stats returned"
    )


# Within these bounds lie the products of one picture at 256x384 with guidance.
MOST_ROWS = 4096
MOST_WORK = 3072 * 320 * 320  # rows times the square of the transformer's width

# The best of 10 to 40 tried on an H200 for each of the products of the UNet's transformers, with the norms before them.
# Each list: for more than 1024, 256, 64 and 0 rows.
WIDER = (Tile(128, 64, 3), Tile(128, 64, 4), Tile(64, 128, 8), Tile(64, 64, 6, blocks=2))
SQUARE = (Tile(128, 64, 4), Tile(64, 64, 3, blocks=2), Tile(64, 64, 6, blocks=2), Tile(64, 64, 12, parts=4))
DEEPER = (Tile(128, 64, 9), Tile(64, 128, 4, parts=2), Tile(64, 128, 4, parts=4), Tile(64, 64, 7, parts=4))
GATED = (Tile(128, 128, 2, warps=8), Tile(128, 128, 3, warps=8), Tile(64, 128, 4), Tile(64, 128, 6))

# For more work, as in batches: the first of which there are enough, of those tried for two, four and eight pictures.
ALONE, IN_PAIRS = Tile(128, 64, 6), Tile(128, 64, 4)  # a multiprocessor has memory for two programs of the second
LARGER = (Tile(128, 128, 4, warps=8), Tile(64, 128, 8), ALONE, Tile(64, 64, 6, blocks=2))
LARGER_GATED = Tile(128, 128, 3, warps=8)
ENOUGH = 80  # programs
TILES = (*WIDER, *SQUARE, *DEEPER, *GATED, *LARGER, IN_PAIRS, LARGER_GATED)

# With fewer columns or less depth than this, as in the small model, a kernel takes little longer than one without work.
NARROW = 256


def fits(sizes: Sizes) -> bool:
    """Return whether our kernel computes a product.

    Those of a transformer together, with norms and what follows, are faster than others at all sizes measured.
    """
    aligned = sizes.depth % ALIGNED == 0 and sizes.columns % ALIGNED == 0
    return aligned and sizes.rows * max(sizes.depth, sizes.columns) < MOST_VALUES


def is_of_one_picture(sizes: Sizes) -> bool:
    """Return whether a product has no more work than those of one picture."""
    return sizes.rows <= MOST_ROWS and sizes.rows * min(sizes.depth, sizes.columns) ** 2 <= MOST_WORK


def choose(sizes: Sizes, stats: bool = False) -> Tile:
    """Return the tile for a product. stats: whether it returns statistics, which need programs of STEP columns."""
    if min(sizes.depth, sizes.columns) < NARROW:
        blocks = 2 if sizes.depth > 2 * STEP else 1
        steps = -(-sizes.depth // (STEP * blocks))
        tile = Tile(64, 32, stages=min(steps, 3), blocks=blocks)
    elif is_of_one_picture(sizes):
        tile = _measured(sizes)[sum(sizes.rows <= most for most in (1024, 256, 64))]
    else:
        tile = LARGER_GATED if sizes.gated else _filling(sizes, stats)
    return replace(tile, width=STEP) if stats or sizes.width % tile.width else tile


def _measured(sizes: Sizes) -> tuple[Tile, ...]:
    if sizes.gated:
        return GATED
    if sizes.columns > sizes.depth:
        return WIDER
    return SQUARE if sizes.columns == sizes.depth else DEEPER


def _filling(sizes: Sizes, stats: bool) -> Tile:
    """Return the first of the LARGER tiles of which there are enough, or the smallest."""
    suitable = [one for one in LARGER if sizes.width % one.width == 0 and (one.width == STEP or not stats)]
    tile = next((one for one in suitable if one.programs(sizes) >= ENOUGH), LARGER[-1])
    return IN_PAIRS if tile is ALONE and tile.programs(sizes) > PROCESSORS else tile
