"""Chooses how the programs of a product share its work: the tile of sums per program, and the parts of a sum."""

from dataclasses import dataclass

STEP = 64  # of the depth; the depth and the columns must be multiples


@dataclass(frozen=True)
class Sizes:
    """Sizes of a product: x [rows, depth], weight [columns, depth] or, with gates, [2 * columns, depth]."""

    rows: int
    depth: int
    columns: int
    gated: bool = False

    @property
    def width(self) -> int:
        """Rows of the weight."""
        return self.columns * (2 if self.gated else 1)


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
    share: int = 1
    share_rows: bool = False

    @property
    def band(self) -> int:
        """Rows per tensor: Gluon's shapes are powers of two, so that 192 rows are three tensors."""
        return 64 if self.rows == 192 else self.rows

    @property
    def cluster(self) -> int:
        return self.parts * self.share

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
        return self.barriers + 16 * self.stages

    def programs(self, sizes: Sizes) -> int:
        down, across = -(-sizes.rows // self.rows), sizes.width // self.width
        if not self.share_rows:
            down = -(-down // self.share) * self.share
        return down * across * self.parts
