"""What the attention's kernel is compiled for."""

from dataclasses import dataclass
from typing import Any

from plugins.hopper.compile import PROCESSORS, Kernel, Programs

MOST_TOKENS = 512  # keys; for more, tiles have been chosen for narrow heads
MOST_AT_ONCE = 128  # keys
ROWS = 64  # the most of a program; from as many on, Triton uses wgmma
PROGRAMS = 96  # enough to occupy most of an H200's multiprocessors
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
        return max(16, _power(self.head))

    @property
    def tile_rows(self) -> int:
        """Rows of q per program."""
        tile = max(16, min(ROWS, _power(self.rows)))
        while tile > 16 and self._count(tile) < PROGRAMS:
            tile //= 2
        return tile

    @property
    def part(self) -> int:
        """Keys that a program reads at once: all of a text or of a small map, else more if there are few programs."""
        if self.tokens <= MOST_AT_ONCE:
            return max(32, _power(self.tokens))
        if self.padded <= 128 and (self.programs <= PROCESSORS or self.tokens > MOST_TOKENS):
            return MOST_AT_ONCE
        return 64 if self.padded <= 128 else 32

    @property
    def stages(self) -> int:
        """Parts that Triton loads ahead, with the one in use."""
        return 3 if self.part < MOST_AT_ONCE and self.tile_rows == ROWS else 2

    @property
    def programs(self) -> int:
        return self._count(self.tile_rows)

    def _count(self, tile: int) -> int:
        return -(-self.rows // tile) * self.heads * self.n

    @property
    def options(self) -> dict[str, int]:
        return {**super().options, "num_stages": self.stages}

    @property
    def tile(self) -> Programs:  # type: ignore[override]
        queries, keys, scores = (
            2 * a * b for a, b in ((self.tile_rows, self.padded), (self.part, self.padded), (self.tile_rows, self.part))
        )
        if self.tokens <= self.part:
            return Programs(4, keys + (queries if self.tile_rows == ROWS else max(queries, scores)))
        # Triton loads keys and values ahead, and with wgmma as many of each as there are stages.
        return Programs(4, queries + (2 * self.stages * keys if self.tile_rows == ROWS else scores + 2 * keys))

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


def _power(number: int) -> int:
    """Return the smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()
