"""Division of weighted prompts into chunks that the text encoder reads one by one, as in AUTOMATIC1111's webui.

A BREAK starts a new chunk, as does a full one. A full chunk ends at its last comma, if that is near its end.
"""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ldm.prompt import Section, parse
from ldm.tokenizer import Tokenizer

log = logging.getLogger(__name__)

NEAR = 20  # tokens: how far from the end of a full chunk its last comma may be

Token = tuple[int, float]  # and its weight


def encode_chunks(tokenizer: Tokenizer, prompts: Sequence[str], chunks: int) -> tuple[Tensor, Tensor]:
    """Return tokens, int32, and their weights, float32, both [prompts * chunks, positions], prompt by prompt.

    Each chunk has a start token, its tokens, and end tokens as padding; short prompts get empty chunks. Logs the end of
    a prompt that needs more chunks, which is dropped. Raises ValueError for a weight that is too large.
    """
    rows = [row for prompt in prompts for row in _chunks(tokenizer, prompt, chunks)]
    start, end = (tokenizer.start, 1.0), (tokenizer.end, 1.0)
    padding = (tokenizer.padding, 1.0)
    padded = [[start, *row, end, *[padding] * (tokenizer.positions - 2 - len(row))] for row in rows]
    tokens, weights = ([[pair[i] for pair in row] for row in padded] for i in (0, 1))
    return torch.tensor(tokens, dtype=torch.int32), torch.tensor(weights, dtype=torch.float32)


def _chunks(tokenizer: Tokenizer, prompt: str, count: int) -> list[list[Token]]:
    """Return `count` chunks without start and end tokens."""
    room, (comma,) = tokenizer.positions - 2, tokenizer.ids(",")
    found = [part for section in parse(prompt) for part in _split(_tokens(tokenizer, section), room, comma)]
    kept, dropped = found[:count], [token for part in found[count:] for token, _ in part]
    if dropped:
        log.warning(
            "prompt of %d chunks of up to %d tokens truncated to %d; dropped: %r",
            len(found),
            room,
            count,
            tokenizer.text(dropped),
        )
    return kept + [[] for _ in range(count - len(kept))]


def _tokens(tokenizer: Tokenizer, section: Section) -> list[Token]:
    return [(token, weight) for text, weight in section for token in tokenizer.ids(text)]


def _split(tokens: list[Token], room: int, comma: int) -> Iterator[list[Token]]:
    """Yield parts of at most `room` tokens, each as long as possible or up to a comma near its end."""
    while len(tokens) > room:
        near = [i + 1 for i in range(room - NEAR, room) if tokens[i][0] == comma]
        end = near[-1] if near and tokens[room][0] != comma else room
        yield tokens[:end]
        tokens = tokens[end:]
    yield tokens
