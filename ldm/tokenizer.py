"""Tokenizes prompts with transformers' CLIP tokenizers, which are loaded from local files only."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

log = logging.getLogger(__name__)
IMPORTING = threading.Lock()
CLIP_ON_THE_HUB = "openai/clip-vit-large-patch14"
FILES = ("vocab.json", "merges.txt")
ONE_FILE = "tokenizer.json"  # replaces both FILES; transformers 5 writes only this file
LETTERS = 2 * 256 + 2  # size of the smallest vocabulary: bytes, bytes at the end of a word, start and end of text


class TokenizerError(ValueError):
    """Tokenizer files are missing or damaged, or have another vocabulary."""


class Tokenizer:
    """Converts n prompts to tokens, int32 [n, positions]. Pads short prompts; truncates long ones and warns."""

    def __init__(self, tokenizer: Any, positions: int) -> None:
        self.tokenizer = tokenizer
        self.positions = positions

    @property
    def vocabulary(self) -> int:
        """The number of tokens in the vocabulary."""
        return len(self.tokenizer)

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        rows = [self._row(prompt) for prompt in prompts]
        return torch.tensor(rows, dtype=torch.int32)

    def _row(self, prompt: str) -> list[int]:
        ids = self.tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        if len(ids) > self.positions:
            kept, cut = ids[: self.positions - 1], ids[self.positions - 1 : -1]
            log.warning(
                "prompt of %d tokens truncated to %d; dropped: %r",
                len(ids),
                self.positions,
                self.tokenizer.decode(cut),
            )
            ids = [*kept, ids[-1]]
        return ids + [self.tokenizer.pad_token_id] * (self.positions - len(ids))


def load_tokenizer(folders: Sequence[Path], positions: int, on_hub: str | None = None) -> Tokenizer:
    """Load the tokenizer from the first of `folders` that has its files, else from the Hugging Face cache.

    The files are vocab.json and merges.txt, or tokenizer.json.
    on_hub: the repository to look up in the Hugging Face cache; None: only `folders` are searched.
    Raises TokenizerError if the files are missing or damaged.
    """
    found = [try_to_load_from_cache(on_hub, file) for file in (FILES[0], ONE_FILE)] if on_hub else []
    cached = [Path(file).parent for file in found if isinstance(file, str)]
    for folder in [*folders, *cached]:
        if all((folder / file).is_file() for file in FILES) or (folder / ONE_FILE).is_file():
            return Tokenizer(_read(folder), positions)
    looked = ", ".join([*map(str, folders), *([f"the Hugging Face cache of {on_hub}"] if on_hub else [])])
    raise TokenizerError(f"no tokenizer: looked for {' and '.join(FILES)}, or {ONE_FILE}, in {looked}; put them there")


def _read(folder: Path) -> Any:
    with IMPORTING:  # transformers imports its modules lazily, which is not thread-safe
        from transformers import CLIPTokenizer, CLIPTokenizerFast  # imported here because the import is slow

    kind = CLIPTokenizer if all((folder / file).is_file() for file in FILES) else CLIPTokenizerFast
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises bare Exceptions for files that it cannot parse
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TokenizerError(f"the tokenizer in {folder} cannot be read ({detail}): fetch the files again") from error
    if len(tokenizer) < LETTERS:
        raise TokenizerError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, expected {LETTERS} or more: fetch the files again"
        )
    return tokenizer
