"""Chunks of long prompts: where they end, their padding and weights, and what is dropped."""

import logging

import pytest
import torch

from ldm.chunks import encode_chunks
from ldm.config import MODELS
from ldm.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer([MODELS / "small" / "tokenizer"], 77)


def texts(tokenizer: Tokenizer, prompt: str, chunks: int) -> list[str]:
    """Return the decoded tokens of each chunk, after checking its start, padding and shape."""
    tokens, weights = encode_chunks(tokenizer, [prompt], chunks)
    assert (tokens.dtype, weights.dtype) == (torch.int32, torch.float32)
    assert tokens.shape == weights.shape == (chunks, 77)
    found = []
    for row in tokens.tolist():
        end = row.index(tokenizer.end)
        assert row[0] == tokenizer.start
        assert row[end:] == [tokenizer.end] * (77 - end)
        found.append(tokenizer.text(row[1:end]))
    return found


def words(count: int, comma_after: int | None = None) -> str:
    """Return `count` tokens: birds, and at most one comma after the given number of them."""
    if comma_after is None:
        return " ".join(["bird"] * count)
    return f"{words(comma_after)}, {words(count - comma_after - 1)}"


@pytest.mark.parametrize("prompt", ["", "a bird, best quality", words(75)])
def test_a_short_prompt_without_brackets_has_the_plain_tokens(tokenizer: Tokenizer, prompt: str) -> None:
    tokens, weights = encode_chunks(tokenizer, [prompt, "lowres"], 1)
    assert torch.equal(tokens, tokenizer([prompt, "lowres"]))
    assert (weights == 1).all()


def test_short_prompts_are_padded_with_empty_chunks(tokenizer: Tokenizer) -> None:
    tokens, weights = encode_chunks(tokenizer, ["bird", words(76)], 3)
    empty = tokenizer([""])[0]
    assert tokens.shape == (6, 77)
    assert [torch.equal(row, empty) for row in tokens] == [False, True, True, False, False, True]
    assert (weights == 1).all()


@pytest.mark.parametrize(
    ("count", "comma_after", "first"),
    [
        (75, 60, 75),  # fits
        (76, None, 75),
        (76, 60, 61),
        (100, 55, 56),
        (100, 54, 75),  # too far from the end
        (100, 74, 75),  # at the end
        (100, 75, 75),  # begins the next chunk
    ],
)
def test_a_chunk_ends_after_a_comma_near_its_end(
    tokenizer: Tokenizer, count: int, comma_after: int | None, first: int
) -> None:
    tokens, _ = encode_chunks(tokenizer, [words(count, comma_after)], 2)
    padding = (tokens == tokenizer.end).sum(dim=1)
    assert (76 - padding).tolist() == [first, count - first]


def test_the_last_comma_counts_unless_another_follows(tokenizer: Tokenizer) -> None:
    tokens, _ = encode_chunks(tokenizer, [f"{words(60)}, {words(5)}, {words(20)}"], 2)
    assert tokens[0].tolist().index(tokenizer.end) == 1 + 67
    tokens, _ = encode_chunks(tokenizer, [f"{words(60)}, {words(14)}, fish"], 2)
    assert tokens[0].tolist().index(tokenizer.end) == 1 + 75
    assert texts(tokenizer, f"{words(60)}, {words(14)}, fish", 2)[1] == ", fish"


def test_break_starts_a_chunk(tokenizer: Tokenizer) -> None:
    assert texts(tokenizer, "red bird BREAK (blue BREAK fish)", 4) == ["red bird", "blue", "fish", ""]
    assert texts(tokenizer, "red BREAK BREAK fish", 3) == ["red", "", "fish"]


def test_weights_belong_to_the_tokens_of_their_text(tokenizer: Tokenizer) -> None:
    _, weights = encode_chunks(tokenizer, [f"(red bird:1.5) [fish], {words(71)} (blue:0.5)"], 2)
    expected = torch.ones(2, 77)
    expected[0, 1:3], expected[0, 3], expected[1, 1] = 1.5, 1 / 1.1, 0.5
    assert torch.equal(weights, expected)


@pytest.mark.parametrize(
    ("prompt", "chunks", "count", "dropped"),
    [
        (f"{words(75)} fingers", 1, 2, "fingers"),
        (f"{words(150)} (red fish)", 2, 3, "red fish"),
        ("bird BREAK fish BREAK red", 1, 3, "fish red"),
    ],
)
def test_what_does_not_fit_is_dropped_with_one_warning(
    tokenizer: Tokenizer, prompt: str, chunks: int, count: int, dropped: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        kept = encode_chunks(tokenizer, [prompt], chunks)
    sentence = f"prompt of {count} chunks of up to 75 tokens truncated to {chunks}; dropped: {dropped!r}"
    assert caplog.messages == [sentence]
    whole = encode_chunks(tokenizer, [prompt], count)
    assert all(torch.equal(one, other[:chunks]) for one, other in zip(kept, whole, strict=True))


def test_an_empty_chunk_is_dropped_silently(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    encode_chunks(tokenizer, ["bird BREAK"], 1)
    assert not caplog.messages
