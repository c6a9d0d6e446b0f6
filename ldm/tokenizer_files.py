"""Reads the files of CLIP's tokenizer, and checks that their vocabulary and merges are complete and belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reading import read_object, read_small, shown

FILES = ("vocab.json", "merges.txt")
ONE_FILE = "tokenizer.json"  # replaces both FILES; transformers 5 writes only this file
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")  # optional; the first that names a token counts
ADDED = "added_tokens.json"  # optional
START, END = SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WORD_END = "</w>"
LETTERS = 2 * 256 + len(SPECIAL)  # tokens that no merge makes: bytes, bytes at the end of a word, start and end of text


def has_files(folder: Path) -> bool:
    return _has_two(folder) or (folder / ONE_FILE).is_file()


@dataclass(frozen=True)
class Vocabulary:
    """tokens: their numbers. merges: pairs of tokens that become one, the first of them first. padding: a token."""

    tokens: dict[str, int]
    merges: list[tuple[str, str]]
    padding: str


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read and check all files that the folder has. Raise OSError or ValueError with the file and the problem.

    FILES are used if both are there, else ONE_FILE.
    """
    found: list[tuple[Any, list[tuple[str, str]]]] = []
    if _has_two(folder):
        tokens = _object(folder / FILES[0])
        found.append((tokens, _check(FILES[0], tokens, _lines(folder / FILES[1]))))
    one_file = _optional(folder / ONE_FILE)
    if (folder / ONE_FILE).is_file():
        model = one_file.get("model")
        if (
            not isinstance(model, dict)
            or model.get("type", "BPE") != "BPE"
            or model.get("end_of_word_suffix") != WORD_END
        ):
            raise ValueError(f"{ONE_FILE} is of another kind, expected CLIP's BPE with {WORD_END} after words")
        found.append((model.get("vocab"), _check(ONE_FILE, model.get("vocab"), model.get("merges"))))
    tokens, merges = found[0]
    settings = _optional(folder / SETTINGS[0])
    _refuse_added(ADDED, [*_optional(folder / ADDED)], tokens)
    _refuse_added(ONE_FILE, _contents(one_file.get("added_tokens")), tokens)
    _refuse_added(SETTINGS[0], _contents(settings.get("added_tokens_decoder")), tokens)
    return Vocabulary(tokens, merges, _padding(folder, tokens))


def _padding(folder: Path, tokens: Mapping[str, int]) -> str:
    """Return the token that fills up short prompts: CLIP's END, unless the settings name another one."""
    for file in SETTINGS:
        named = _optional(folder / file).get("pad_token")
        token = named.get("content") if isinstance(named, dict) else named
        if token is not None:
            if not isinstance(token, str) or token not in tokens:
                raise ValueError(f"{file} has the pad_token {shown(token)}, which is not in the vocabulary")
            return token
    return END


def _contents(entries: Any) -> list[Any]:
    """Return the tokens in a list, or a mapping by number, of objects that describe one each."""
    listed = [*entries.values()] if isinstance(entries, Mapping) else entries or []
    return [entry.get("content") for entry in listed if isinstance(entry, Mapping)]


def _refuse_added(file: str, added: Sequence[Any], tokens: Mapping[str, int]) -> None:
    """Raise ValueError for a token beyond the vocabulary, for which the text encoder has no vector."""
    if more := [token for token in added if not isinstance(token, str) or token not in tokens]:
        raise ValueError(f"{file} adds the token {shown(more[0])}, for which CLIP's text encoder has no vector")


def _has_two(folder: Path) -> bool:
    return all((folder / file).is_file() for file in FILES)


def _optional(path: Path) -> dict[str, Any]:
    return _object(path) if path.is_file() else {}


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


def _check(file: str, tokens: Any, merges: Any) -> list[tuple[str, str]]:
    """Return the merges as pairs.

    Raise ValueError if the tokens are not numbered from 0, or if the merges do not make all but the LETTERS.
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
    return [(left, right) for left, right in pairs]
