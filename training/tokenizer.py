"""The small model's tokenizer files: byte-pair merges that make each word of a list one token, in CLIP's format.

python -m training.tokenizer        writes vocab.json and merges.txt to models/small/tokenizer
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ldm.config import MODELS
from training.scenes import VOCABULARY

END_OF_WORD = "</w>"
# What the contest's prompts add to the words of the training captions.
PROMPT_WORDS = (
    "best quality extremely detailed longbody lowres bad anatomy hands missing fingers high low good beautiful "
    "highres photo picture painting drawing sharp blurry simple bright dark big small one two three"
).split()


def train_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """The merges, first to last, that build every word out of its letters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 20, min_frequency=1, end_of_word_suffix=END_OF_WORD, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(sorted(set(words)))], trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def clip_vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Token -> id in CLIP's order: 256 letters, the same at a word's end, the merges, start and end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + END_OF_WORD for letter in alphabet), *map("".join, merges)]
    return {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def write_tokenizer(folder: Path, words: Sequence[str]) -> int:
    """Write vocab.json and merges.txt, and return the number of tokens."""
    merges = train_merges(words)
    vocabulary = clip_vocabulary(merges)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    return len(vocabulary)


if __name__ == "__main__":
    print(write_tokenizer(MODELS / "small" / "tokenizer", [*PROMPT_WORDS, *VOCABULARY]), "tokens")
