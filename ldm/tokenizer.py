"""Tokenizes prompts as CLIP does, with the library tokenizers and local files only.

The rules are those of transformers' CLIPTokenizer, whose import would take longer than everything else here.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import tokenizers
import torch
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

from ldm.tokenizer_files import END, FILES, ONE_FILE, SPECIAL, START, WORD_END, has_files, read_vocabulary

log = logging.getLogger(__name__)
CLIP_ON_THE_HUB = "openai/clip-vit-large-patch14"
# What becomes tokens of its own: start and end of text, English endings, words, single digits, other signs.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
KEPT = 256  # texts whose tokens are kept


class TokenizerError(ValueError):
    """Tokenizer files are missing or damaged, or have another vocabulary."""


class Tokenizer:
    """Converts n prompts to tokens, int32 [n, positions]. Pads short prompts; truncates long ones and warns."""

    def __init__(self, encoder: tokenizers.Tokenizer, padding: str, positions: int) -> None:
        self.encoder, self.positions = encoder, positions
        tokens = encoder.get_vocab()
        self.start, self.end, self.padding = tokens[START], tokens[END], tokens[padding]
        # Texts are often repeated, negative prompts most of all.
        self._own_ids: Callable[[str], tuple[int, ...]] = lru_cache(KEPT)(self._encode)
        self.words: dict[str, list[int]] = {}
        self.pattern: re.Pattern[str] | None = None

    @property
    def vocabulary(self) -> int:
        """The number of tokens in the vocabulary."""
        return self.encoder.get_vocab_size()

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
            ids.extend(self._own_ids(piece) if word is None else word)
        return ids

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.encoder.encode(text, add_special_tokens=False).ids)

    def _row(self, prompt: str) -> list[int]:
        ids = [self.start, *self.ids(prompt), self.end]
        if len(ids) > self.positions:
            kept, cut = ids[: self.positions - 1], ids[self.positions - 1 : -1]
            log.warning("prompt of %d tokens truncated to %d; dropped: %r", len(ids), self.positions, self.text(cut))
            ids = [*kept, self.end]
        return ids + [self.padding] * (self.positions - len(ids))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; an added word stands for the first of its tokens."""
        words = {tokens[0]: word for word, tokens in self.words.items()}
        added = {token for tokens in self.words.values() for token in tokens}
        pieces: list[str] = []
        for is_added, group in groupby(ids, key=added.__contains__):
            some = [*group]
            pieces += [words[one] for one in some if one in words] if is_added else [self._own_text(some)]
        return " ".join(pieces)

    def _own_text(self, ids: Sequence[int]) -> str:
        text = self.encoder.decode(ids, skip_special_tokens=False)
        return text.replace(WORD_END, " ").strip()


def load_tokenizer(folders: Sequence[Path], positions: int, on_hub: str | None = None) -> Tokenizer:
    """Load the tokenizer from the first of `folders` that has its files, else from the Hugging Face cache.

    The files are vocab.json and merges.txt, or tokenizer.json.
    on_hub: the repository to look up in the Hugging Face cache; None: only `folders` are searched.
    Raises TokenizerError if the files are missing or damaged.
    """
    for folder in [*folders, *(_cached(on_hub) if on_hub else [])]:
        if has_files(folder):
            return _read(folder, positions)
    looked = ", ".join([*map(str, folders), *([f"the Hugging Face cache of {on_hub}"] if on_hub else [])])
    raise TokenizerError(f"no tokenizer: looked for {' and '.join(FILES)}, or {ONE_FILE}, in {looked}; put them there")


def _cached(repository: str) -> list[Path]:
    """Return the folders of the Hugging Face cache that have one of the files of the repository."""
    from huggingface_hub import try_to_load_from_cache  # slow to import

    found = [try_to_load_from_cache(repository, file) for file in (FILES[0], ONE_FILE)]
    return [Path(file).parent for file in found if isinstance(file, str)]


def _read(folder: Path, positions: int) -> Tokenizer:
    try:
        found = read_vocabulary(folder)
        model = BPE(found.tokens, found.merges, end_of_word_suffix=WORD_END, unk_token=END)
    except Exception as error:  # the library raises bare Exceptions
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TokenizerError(f"the tokenizer in {folder} cannot be read ({detail}): fetch the files again") from error
    encoder = tokenizers.Tokenizer(model)
    encoder.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    encoder.decoder = decoders.ByteLevel()
    encoder.add_special_tokens([AddedToken(token, normalized=True) for token in SPECIAL])  # in any case, like words
    return Tokenizer(encoder, found.padding, positions)
