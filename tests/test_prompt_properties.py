"""Any text is a prompt: its tokens have the right shape, or its weights are refused in one sentence."""

import pytest
import torch

from ldm.chunks import encode_chunks
from ldm.config import MODELS
from ldm.prompt import LARGEST, parse
from ldm.tokenizer import Tokenizer, load_tokenizer
from tests.properties import PROMPTS, SETTINGS, given
from tests.sentences import assert_one_sentence


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer([MODELS / "small" / "tokenizer"], 77)


@given(PROMPTS)
@SETTINGS
def test_parse(prompt: str) -> None:
    try:
        sections = parse(prompt)
    except ValueError as error:
        assert_one_sentence(error, "prompt")
        return
    assert len(sections) <= 1 + prompt.count("BREAK")
    assert all(abs(weight) <= LARGEST for section in sections for _, weight in section)
    assert sum(len(text) for section in sections for text, _ in section) <= len(prompt)


@given(PROMPTS, PROMPTS)
@SETTINGS
def test_tokens(tokenizer: Tokenizer, prompt: str, negative: str) -> None:
    try:
        tokens, weights = encode_chunks(tokenizer, [prompt, negative], 3)
    except ValueError as error:
        assert_one_sentence(error, "prompt")
        return
    assert tokens.shape == weights.shape == (6, 77)
    assert (tokens.dtype, weights.dtype) == (torch.int32, torch.float32)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < tokenizer.vocabulary
    assert bool(weights.isfinite().all())
    assert (tokens[:, 0] == tokenizer.start).all()
    assert (tokens[:, -1] == tokenizer.end).all()


@given(PROMPTS)
@SETTINGS
def test_plain_tokens(tokenizer: Tokenizer, prompt: str) -> None:
    tokens = tokenizer([prompt])
    assert (tokens.shape, tokens.dtype) == ((1, 77), torch.int32)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < tokenizer.vocabulary
