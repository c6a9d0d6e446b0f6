"""Tokenizes prompts with transformers' CLIP tokenizers, which are loaded from local files only."""

import logging
import re
import threading
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from ldm.tokenizer_files import FILES, ONE_FILE, check_files, has_files

log = logging.getLogger(__name__)
IMPORTING = threading.Lock()
CLIP_ON_THE_HUB = "openai/clip-vit-large-patch14"


class TokenizerError(ValueError):
    """Tokenizer files are missing or damaged, or have another vocabulary."""


class Tokenizer:
    """Converts n prompts to tokens, int32 [n, positions]. Pads short prompts; truncates long ones and warns."""

    def __init__(self, tokenizer: Any, positions: int) -> None:
        self.tokenizer = tokenizer
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)  # transformers' older ones have none
        self.positions = positions
        self.words: dict[str, list[int]] = {}
        self.pattern: re.Pattern[str] | None = None

    @property
    def vocabulary(self) -> int:
        """The number of tokens in the vocabulary."""
        return len(self.tokenizer)

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        rows = [self._row(prompt) for prompt in prompts]
        return torch.tensor(rows, dtype=torch.int32)

    def add(self, words: Mapping[str, list[int]]) -> None:
        """Let each word, in any case and next to no letter, digit or underscore, become the tokens given for it."""
        self.words |= {word.lower(): tokens for word, tokens in words.items()}
        longest_first = sorted(map(re.escape, self.words), key=len, reverse=True)
        self.pattern = re.compile(rf"(?<!\w)({'|'.join(longest_first)})(?!\w)", re.IGNORECASE)

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text of any length, without start and end."""
        pieces = self.pattern.split(text) if self.pattern else [text]
        ids: list[int] = []
        for i, piece in enumerate(pieces):  # every second piece is an added word
            # Some letters, such as the dotless i, match others in any case but are not their lower case.
            word = self.words.get(piece.lower()) if i % 2 else None
            ids += self._own_ids(piece) if word is None else word
        return ids

    def _own_ids(self, text: str) -> list[int]:
        if self.backend and not (self.backend.truncation or self.backend.padding):
            # The same without transformers' options, whose code takes 0.8 ms for two prompts between two pictures.
            return list(self.backend.encode(text, add_special_tokens=False).ids)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return ids

    def _row(self, prompt: str) -> list[int]:
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids = [start, *self.ids(prompt), end]
        if len(ids) > self.positions:
            kept, cut = ids[: self.positions - 1], ids[self.positions - 1 : -1]
            log.warning("prompt of %d tokens truncated to %d; dropped: %r", len(ids), self.positions, self.text(cut))
            ids = [*kept, end]
        return ids + [self.tokenizer.pad_token_id] * (self.positions - len(ids))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; an added word stands for the first of its tokens."""
        words = {tokens[0]: word for word, tokens in self.words.items()}
        added = {token for tokens in self.words.values() for token in tokens}
        pieces: list[str] = []
        for is_added, group in groupby(ids, key=added.__contains__):
            some = [*group]
            pieces += [words[one] for one in some if one in words] if is_added else [self.tokenizer.decode(some)]
        return " ".join(pieces)


def load_tokenizer(folders: Sequence[Path], positions: int, on_hub: str | None = None) -> Tokenizer:
    """Load the tokenizer from the first of `folders` that has its files, else from the Hugging Face cache.

    The files are vocab.json and merges.txt, or tokenizer.json.
    on_hub: the repository to look up in the Hugging Face cache; None: only `folders` are searched.
    Raises TokenizerError if the files are missing or damaged.
    """
    found = [try_to_load_from_cache(on_hub, file) for file in (FILES[0], ONE_FILE)] if on_hub else []
    cached = [Path(file).parent for file in found if isinstance(file, str)]
    for folder in [*folders, *cached]:
        if has_files(folder):
            return Tokenizer(_read(folder), positions)
    looked = ", ".join([*map(str, folders), *([f"the Hugging Face cache of {on_hub}"] if on_hub else [])])
    raise TokenizerError(f"no tokenizer: looked for {' and '.join(FILES)}, or {ONE_FILE}, in {looked}; put them there")


def _read(folder: Path) -> Any:
    with IMPORTING:  # transformers imports its modules lazily, which is not thread-safe
        from transformers import CLIPTokenizer, CLIPTokenizerFast  # imported here because the import is slow

    kind = CLIPTokenizer if all((folder / file).is_file() for file in FILES) else CLIPTokenizerFast
    try:
        check_files(folder)
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises bare Exceptions for files that it cannot parse
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TokenizerError(f"the tokenizer in {folder} cannot be read ({detail}): fetch the files again") from error
    for name in ("bos_token", "eos_token", "pad_token"):
        number = getattr(tokenizer, f"{name}_id")
        if number is None or not 0 <= number < len(tokenizer):
            raise TokenizerError(f"the tokenizer in {folder} has no {name}: fetch the files again")
    return tokenizer
