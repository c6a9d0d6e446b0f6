"""What the attention's kernel is compiled for."""

from dataclasses import dataclass
from typing import Any

from plugins.hopper.compile import Kernel, Programs

MOST_TOKENS = 512  # keys; for more, tiles have been chosen for narrow heads
PROGRAMS = 96  # enough to occupy most of an H200's 132 multiprocessors
LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class ShortAttention(Kernel):
    """n times the attention of `rows` queries to `tokens` keys.

    strides: of q from one of the n to the next and from row to row, and those of k and v.
    """

    n: int
    rows: int
    tokens: int
    heads: int
    head: int
    strides: tuple[int, int, int, int]
    causal: bool = False

    NAME = "canny2image_attention"
    POINTERS = ("*fp16",) * 4  # q, k, v and result
    GLUON = False

    @property
    def padded(self) -> int:
        """The width of a head, as a power of two, at least 16."""
        return max(16, 1 << (self.head - 1).bit_length())

    @property
    def tile_rows(self) -> int:
        """Rows of q per program."""
        tile = min(128, 8192 // self.padded)
        while tile > 16 and -(-self.rows // tile) * self.n * self.heads < PROGRAMS:
            tile //= 2
        return min(tile, 64) if self.tokens > MOST_TOKENS else tile

    @property
    def part(self) -> int:
        """Keys that a program reads at once."""
        if self.tokens > MOST_TOKENS or (self.tokens != self.rows and self.padded * 128 <= 2**15):
            return 128  # all of a text, or of many
        return 64 if self.padded <= 128 else 32

    @property
    def programs(self) -> int:
        return -(-self.rows // self.tile_rows) * self.heads * self.n

    @property
    def options(self) -> dict[str, int]:
        return {**super().options, "num_stages": 2}

    @property
    def tile(self) -> Programs:  # type: ignore[override]
        queries, keys, scores = (
            2 * a * b for a, b in ((self.tile_rows, self.padded), (self.part, self.padded), (self.tile_rows, self.part))
        )
        # Triton loads ahead if there are several parts: with 64 rows, for which it uses wgmma, keys and values.
        ahead = 1 if self.tokens <= self.part else 4 if self.tile_rows >= 64 else 2
        return Programs(4, queries + scores + ahead * keys)

    @property
    def boxes(self) -> list[list[int]]:
        return []

    def constants(self) -> dict[str, Any]:
        return {
            **dict(zip(("Q_TEXT", "Q_ROW", "K_TEXT", "K_TOKEN"), self.strides, strict=True)),
            **{"ROWS": self.rows, "KEYS": self.tokens, "HEADS": self.heads, "HEAD": self.head, "PADDED": self.padded},
            **{"SCALE": self.head**-0.5 * LOG2_E, "CAUSAL": self.causal, "TILE": self.tile_rows, "PART": self.part},
        }

    def function(self) -> Any:
        from plugins.short_attention.kernel import canny2image_attention

        return canny2image_attention
