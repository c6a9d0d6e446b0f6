"""Prompts to tokens: transformers' CLIPTokenizer from files on this machine, nothing fetched."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)
CLIP_ON_THE_HUB = "openai/clip-vit-large-patch14"


class TokenizerError(ValueError):
    """No tokenizer files where they are expected."""


class Tokenizer:
    """Callable: n prompts -> int32 [n, positions], padded or truncated."""

    def __init__(self, tokenizer: Any, positions: int) -> None:
        self.tokenizer = tokenizer
        self.positions = positions

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        rows = [self._row(prompt) for prompt in prompts]
        return torch.tensor(rows, dtype=torch.int32)

    def _row(self, prompt: str) -> list[int]:
        ids = self.tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        if len(ids) > self.positions:
            kept, cut = ids[: self.positions - 1], ids[self.positions - 1 : -1]
            log.warning(
                "prompt of %d tokens cut to %d; left out: %r",
                len(ids),
                self.positions,
                self.tokenizer.decode(cut),
            )
            ids = [*kept, ids[-1]]
        return ids + [self.tokenizer.pad_token_id] * (self.positions - len(ids))


def load_tokenizer(folders: Sequence[Path], positions: int, on_hub: str | None = None) -> Tokenizer:
    """The tokenizer from the first of `folders` that has vocab.json and merges.txt, else from the Hugging Face cache.

    `on_hub` names the repository to look for in that cache. Raises TokenizerError when neither is there.
    """
    from transformers import CLIPTokenizer  # slow to import, and only a pipeline needs it

    for folder in folders:
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return Tokenizer(CLIPTokenizer.from_pretrained(folder, local_files_only=True), positions)
    if on_hub is not None:
        try:
            return Tokenizer(CLIPTokenizer.from_pretrained(on_hub, local_files_only=True), positions)
        except OSError:
            log.debug("%s is not in the Hugging Face cache", on_hub)
    looked = ", ".join([*map(str, folders), *([f"the Hugging Face cache of {on_hub}"] if on_hub else [])])
    raise TokenizerError(f"no tokenizer: looked for vocab.json and merges.txt in {looked}; put the two files there")
