"""How the kernel for attention of many queries shares its work: tiles of queries, and parts of the keys."""

from dataclasses import dataclass
from pathlib import Path

from plugins.hopper.cuda_kernel import ALIGNMENT, CudaKernel

SOURCE = Path(__file__).with_name("kernel.cu")
HEADS = (40, 80)  # widths of a head that the kernel supports
WARPGROUPS = 3
ROWS = 64 * WARPGROUPS  # queries of a tile
BOX = 64  # columns of a row that lie next to each other in shared memory
TEXT = 80  # most keys that are one part; with 96 of them at a width of 80, a warpgroup has too few registers
PARTS = {40: 96, 80: 64}  # otherwise, by the width of a head


@dataclass(frozen=True)
class Sizes:
    """n times the attention of `rows` queries to `tokens` keys, of each head of width `head`."""

    n: int
    rows: int
    tokens: int
    heads: int
    head: int

    @property
    def tiles(self) -> int:
        return self.n * self.heads * -(-self.rows // ROWS)

    @property
    def part(self) -> int:
        """Keys at once."""
        return TEXT if self.tokens <= TEXT else PARTS[self.head]

    @property
    def stages(self) -> int:
        """Parts of the keys, and of the values, in shared memory."""
        return 2 if self.tokens <= TEXT else 3

    def kernel(self) -> CudaKernel:
        numbers = {
            "QUERIES": self.rows, "TOKENS": self.tokens, "HEADS": self.heads, "HEAD": self.head, "PART": self.part,
            "WARPGROUPS": WARPGROUPS, "STAGES": self.stages,
        }  # fmt: skip
        constants = (*((name, str(number)) for name, number in numbers.items()), ("SCALE", f"{self.head**-0.5!r}f"))
        bytes_per_row = 2 * BOX * -(-self.head // BOX)
        shared = ALIGNMENT + bytes_per_row * (2 * ROWS + 2 * self.stages * self.part)
        return CudaKernel(SOURCE, "canny2image_long_attention", 128 * WARPGROUPS + 32, shared, constants)
