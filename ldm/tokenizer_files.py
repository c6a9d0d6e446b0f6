"""Checks the files of CLIP's tokenizer: whether their vocabulary and merges are complete and belong together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reading import read_object, read_small, shown

FILES = ("vocab.json", "merges.txt")
ONE_FILE = "tokenizer.json"  # replaces both FILES; transformers 5 writes only this file
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WORD_END = "</w>"
LETTERS = 2 * 256 + len(SPECIAL)  # tokens that no merge makes: bytes, bytes at the end of a word, start and end of text


def has_files(folder: Path) -> bool:
    return _has_two(folder) or (folder / ONE_FILE).is_file()


def check_files(folder: Path) -> None:
    """Check all files that the folder has. Raise OSError or ValueError with the file and the problem."""
    if _has_two(folder):
        _check(FILES[0], _object(folder / FILES[0]), _lines(folder / FILES[1]))
    if (folder / ONE_FILE).is_file():
        model = _object(folder / ONE_FILE).get("model")
        if (
            not isinstance(model, dict)
            or model.get("type", "BPE") != "BPE"
            or model.get("end_of_word_suffix") != WORD_END
        ):
            raise ValueError(f"{ONE_FILE} is of another kind, expected CLIP's BPE with {WORD_END} after words")
        _check(ONE_FILE, model.get("vocab"), model.get("merges"))


def _has_two(folder: Path) -> bool:
    return all((folder / file).is_file() for file in FILES)


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except ValueError as error:
        raise ValueError(f"{path.name} {error}") from error


def _lines(path: Path) -> list[str]:
    """Return the merges; the first line holds the version."""
    try:
        return [line.strip() for line in read_small(path).decode("utf-8-sig").split("\n")[1:] if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no UTF-8 text") from error


def _check(file: str, tokens: Any, merges: Any) -> None:
    """Raise ValueError if the tokens are not numbered from 0, or if the merges do not make all but the LETTERS.

    tokens: token -> its number. merges: "a b" or ["a", "b"] each.
    """
    if not isinstance(tokens, Mapping) or not isinstance(merges, Sequence):
        raise ValueError(f"{file} holds no vocabulary, expected tokens with their numbers")
    wrong = [token for token, number in tokens.items() if type(number) is not int]
    if wrong or {*tokens.values()} != {*range(len(tokens))}:
        first = f" ({shown(wrong[0])} has {shown(tokens[wrong[0]])})" if wrong else ""
        raise ValueError(f"{file} does not number its {len(tokens)} tokens from 0 to {len(tokens) - 1}{first}")
    if missing := [token for token in SPECIAL if token not in tokens]:
        raise ValueError(f"{file} lacks the token {missing[0]}")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for pair in pairs:
        whole = isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        if not whole or not {*pair, "".join(pair)} <= tokens.keys():
            raise ValueError(f"{file} has no token for the merge {shown(pair)}")
    if len(tokens) != LETTERS + len(pairs):
        raise ValueError(f"{file} has {len(tokens)} tokens, expected {LETTERS + len(pairs)} for {len(pairs)} merges")
