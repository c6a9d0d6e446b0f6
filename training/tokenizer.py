"""Writes the small model's tokenizer files in CLIP's format. Its merges turn each word of a list into one token.

python -m training.tokenizer        writes vocab.json and merges.txt to models/small/tokenizer
"""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from cldm.checkpoint import SMALL_TOKENIZER
from commands import one_line
from files import write_whole
from training.scenes.captions import VOCABULARY

END_OF_WORD = "</w>"
# Words of prompts, such as the contest's, in addition to those of the training captions.
PROMPT_WORDS = (
    "best quality extremely detailed longbody lowres bad anatomy hands missing fingers high low good beautiful "
    "highres photo picture painting drawing sharp blurry simple bright dark big small one two three"
).split()


def train_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the merges, in order, that build every word from its letters: byte-pair encoding (Sennrich et al. 2016).

    The most frequent pair is merged first; of equally frequent pairs, the first in alphabetical order. Equal words
    therefore always give equal merges, which library trainers do not guarantee.
    """
    split = [[*word[:-1], word[-1] + END_OF_WORD] for word in sorted(set(words))]
    merges = []
    while pairs := Counter(pair for pieces in split for pair in pairwise(pieces)):
        merge = min(pairs, key=lambda pair: (-pairs[pair], pair))
        split = [_merged(pieces, merge) for pieces in split]
        merges.append(merge)
    return merges


def _merged(pieces: list[str], merge: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for piece in pieces:
        if result and (result[-1], piece) == merge:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def clip_vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return ids by token, in CLIP's order: 256 letters, 256 letters at a word's end, merges, start and end of text."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + END_OF_WORD for letter in alphabet), *map("".join, merges)]
    return {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def write_tokenizer(folder: Path, words: Sequence[str]) -> int:
    """Write vocab.json and merges.txt to `folder`; return the number of tokens."""
    merges = train_merges(words)
    vocabulary = clip_vocabulary(merges)
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    write_whole(folder / "merges.txt", ("\n".join(lines) + "\n").encode())
    write_whole(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False).encode())
    return len(vocabulary)


if __name__ == "__main__":
    with one_line():
        print(write_tokenizer(SMALL_TOKENIZER, [*PROMPT_WORDS, *VOCABULARY]), "tokens")
