"""How prompts are read: as plain text, or with the brackets and chunks of AUTOMATIC1111's webui."""

import numbers
from dataclasses import dataclass

from reading import shown

MOST_CHUNKS = 8


@dataclass(frozen=True)
class PromptSyntax:
    """name: plain or webui. chunks: the fixed number of text encoder inputs per prompt, 75 tokens each.

    Raises TypeError or ValueError for anything else.
    """

    name: str = "plain"
    chunks: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"prompt_syntax: got {shown(self.name)}, expected a string")
        if self.name not in ("plain", "webui"):
            raise ValueError(f"prompt_syntax {shown(self.name)}: expected plain or webui")
        if isinstance(self.chunks, bool) or not isinstance(self.chunks, numbers.Integral):
            raise TypeError(f"prompt_chunks: got {shown(self.chunks)}, expected a whole number")
        if not 1 <= self.chunks <= MOST_CHUNKS:
            raise ValueError(f"prompt_chunks: got {shown(self.chunks)}, expected 1 to {MOST_CHUNKS}")
        if not self.weighted and self.chunks != 1:
            raise ValueError(
                f"prompt_chunks: got {shown(self.chunks)} with prompt_syntax plain, expected 1: use prompt_syntax "
                "webui for longer prompts"
            )

    def __str__(self) -> str:
        return f"{self.name}, {self.chunks} chunk{'s'[: self.chunks > 1]}" if self.weighted else self.name

    @property
    def weighted(self) -> bool:
        """Whether tokens have weights."""
        return self.name == "webui"


PLAIN = PromptSyntax()
