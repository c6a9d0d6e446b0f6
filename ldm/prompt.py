"""The prompt syntax of AUTOMATIC1111's webui.

    (word)      1.1        [word]      1 / 1.1
    ((word))    1.21       (word:1.2)  1.2
    \\( \\) \\[ \\] \\\\  the character itself; a backslash before any other character is dropped
    BREAK       starts a new section, also inside brackets

A bracket that is never closed multiplies everything after it; one that was never opened is text. Round and square
brackets do not affect each other. Neighbours of equal weight are joined, so that they are tokenized as one text.
"""

import logging
import re
import reprlib
from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np

log = logging.getLogger(__name__)

Section = list[tuple[str, float]]  # texts and their weights

CLOSING = {"(": ")", "[": "]"}
FACTORS = {")": 1.1, "]": 1 / 1.1}
LARGEST = 1000.0  # weight; much larger ones overflow

LEXEMES = re.compile(
    r"\\(?P<escaped>[()\[\]\\]?)"
    r"|(?P<opening>[(\[])"
    r"|(?P<closing>[)\]])"
    r"|:\s*(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)"
    r"|(?P<text>:|[^\\()\[\]:]+)"
)
BREAK = re.compile(r"\bBREAK\b")
UNSUPPORTED = re.compile(r"<\w+:[^<>]*>|\[[^\[\]()\\:|]*[:|][^\[\]()\\]*\]|\bAND\b")


def parse(prompt: str) -> list[Section]:
    """Return the sections between the BREAKs, each with its texts and weights; a section may be empty.

    Raises ValueError for a weight beyond -1000 to 1000. Logs parts in webui's other notations, which are read as text.
    """
    if unsupported := UNSUPPORTED.findall(prompt):
        log.warning(
            "prompt: %s read as text, because <lora:...>, [a:b:0.5], [a|b] and AND are not supported",
            ", ".join(map(repr, dict.fromkeys(unsupported))),
        )
    pieces = _weighted(prompt)
    for text, weight in pieces:
        if not abs(weight) <= LARGEST:
            raise ValueError(
                f"prompt: {reprlib.repr(text)} has the weight {weight:g}, expected -{LARGEST:g} to {LARGEST:g}: use a "
                "smaller one"
            )
    return _sections(pieces)


def _weighted(prompt: str) -> list[tuple[str | None, float]]:
    """Return all texts with their weights; the text None is a BREAK."""
    texts: list[str | None] = []
    opened: dict[str, list[int]] = {")": [], "]": []}  # the lengths of `texts` at open brackets, by closing bracket
    factors: list[tuple[int, int, float]] = []  # of texts[start:end]

    for found in LEXEMES.finditer(prompt):
        kind, word = str(found.lastgroup), found[str(found.lastgroup)]
        if kind == "opening":
            opened[CLOSING[word]].append(len(texts))
        elif kind == "closing" and opened[word]:
            factors.append((opened[word].pop(), len(texts), FACTORS[word]))
        elif kind == "weight" and opened[")"]:
            factors.append((opened[")"].pop(), len(texts), float(word)))
        else:
            texts += [word] if kind == "escaped" else _broken(found[0])
    for closing, starts in opened.items():
        factors += [(start, len(texts), FACTORS[closing]) for start in starts]
    weights = np.ones(len(texts))
    with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses infinite weights and NaN
        for start, end, factor in factors:
            weights[start:end] *= factor
    return list(zip(texts, weights.tolist(), strict=True))


def _broken(text: str) -> Iterator[str | None]:
    """Yield the parts of a text with None between them for each BREAK, without the spaces around it."""
    first, *others = BREAK.split(text)
    yield first.rstrip() if others else first
    for i, other in enumerate(others, 1):
        yield None
        yield other.lstrip() if i == len(others) else other.strip()


def _sections(pieces: Iterable[tuple[str | None, float]]) -> list[Section]:
    sections: list[Section] = [[]]
    for (weight, is_break), run in groupby(pieces, lambda piece: (piece[1], piece[0] is None)):
        texts = [text for text, _ in run]
        if is_break:
            sections += [[] for _ in texts]
        else:
            sections[-1].append(("".join(text for text in texts if text), weight))
    return sections
