import copy
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from ldm.config import MODELS, load_architecture
from ldm.tokenizer import Tokenizer, TokenizerError, load_tokenizer

FOLDER = MODELS / "small" / "tokenizer"
PROMPTS = (
    "a bird, best quality, extremely detailed",
    "longbody, lowres, bad anatomy, bad hands, missing fingers",
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer([FOLDER], 77)


@pytest.fixture(scope="module")
def theirs() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(FOLDER, local_files_only=True)


def ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the tokens between start and end."""
    row: list[int] = tokenizer([prompt])[0].tolist()
    return row[1 : row.index(tokenizer.end)]


def test_rows_are_padded_with_the_end_token(tokenizer: Tokenizer) -> None:
    tokens = tokenizer(["", "bird", "a bird"])
    start, end = tokenizer.start, tokenizer.end
    assert start != end
    assert (tokens.dtype, tokens.shape) == (torch.int32, (3, 77))
    assert tokens[0].tolist() == [start] + [end] * 76
    assert (tokens[:, 0] == start).all()
    assert (tokens == end).sum(dim=1).tolist() == [76, 75, 74]


def test_vocabulary_fits_the_architecture(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary == load_architecture("small").text.vocabulary
    assert tokenizer.end == tokenizer.vocabulary - 1


@pytest.mark.parametrize("word", " ".join(PROMPTS).replace(",", " ,").split())
def test_each_word_of_the_contest_prompts_is_one_token(tokenizer: Tokenizer, word: str) -> None:
    (token,) = ids(tokenizer, word)
    assert tokenizer.text([token]) == word


@pytest.mark.parametrize("prompt", [*PROMPTS, "vögelchen, 鸟 🐦 don't 42%"])
def test_no_letter_is_lost(tokenizer: Tokenizer, prompt: str) -> None:
    back = tokenizer.text(ids(tokenizer, prompt))
    assert "".join(back.split()) == "".join(prompt.split())


@given(text=st.text(max_size=60) | st.lists(st.sampled_from([*PROMPTS, "<|endoftext|>", " ", "\n"])).map(" ".join))
def test_tokens_are_those_of_transformers(tokenizer: Tokenizer, theirs: CLIPTokenizer, text: str) -> None:
    tokens = theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.ids(text) == tokens
    assert tokenizer.text(tokens) == theirs.decode(tokens).strip()


def test_start_and_end_of_text_are_tokens_in_any_case(tokenizer: Tokenizer) -> None:
    """As in CLIP's own tokenizer, which the contest used."""
    assert tokenizer.ids("<|StartOfText|> <|EndOfText|>") == [tokenizer.start, tokenizer.end]


def test_settings_of_a_file_that_would_change_prompts_are_ignored(tokenizer: Tokenizer, tmp_path: Path) -> None:
    encoder = copy.deepcopy(tokenizer.encoder)
    encoder.enable_truncation(4)
    encoder.enable_padding(length=9)
    encoder.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer([tmp_path], 77)(PROMPTS).tolist() == tokenizer(PROMPTS).tolist()


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("named", ["bird</w>", {"content": "bird</w>", "lstrip": False}])
def test_settings_may_name_another_token_for_padding(
    tokenizer: Tokenizer, tmp_path: Path, file: str, named: object
) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(json.dumps({"pad_token": named}))
    (row,) = load_tokenizer([tmp_path], 77)(["a"]).tolist()
    assert row == [tokenizer.start, *tokenizer.ids("a"), tokenizer.end, *tokenizer.ids("bird") * 74]
    (tmp_path / file).write_text(json.dumps({"pad_token": "xyzzy"}))
    with pytest.raises(TokenizerError, match=f"{file} has the pad_token 'xyzzy', which is not in the vocabulary"):
        load_tokenizer([tmp_path], 77)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("added_tokens.json", {"<cat-toy>": 799}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"799": {"content": "<cat-toy>"}}}),
        ("tokenizer.json", {"added_tokens": [{"id": 799, "content": "<cat-toy>"}]}),
    ],
)
def test_a_token_beyond_the_vocabulary_is_refused(
    tokenizer: Tokenizer, tmp_path: Path, file: str, content: dict[str, Any]
) -> None:
    tokenizer.encoder.save(str(tmp_path / "tokenizer.json"))
    load_tokenizer([tmp_path], 77)
    path = tmp_path / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | content))
    with pytest.raises(TokenizerError, match=f"{file} adds the token '<cat-toy>', for which .* has no vector"):
        load_tokenizer([tmp_path], 77)


def test_words_differ(tokenizer: Tokenizer) -> None:
    assert ids(tokenizer, "a bird") != ids(tokenizer, "a hand")
    assert ids(tokenizer, "A Bird") == ids(tokenizer, "a bird"), "prompts are not lowercased, as CLIP requires"


@pytest.mark.parametrize(("words", "cut"), [(75, ""), (76, "fingers"), (80, "fingers bird bird bird bird")])
def test_long_prompt_is_truncated_with_one_warning(
    tokenizer: Tokenizer, words: int, cut: str, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = " ".join((["bird"] * 75 + ["fingers"] + ["bird"] * 4)[:words])
    with caplog.at_level(logging.WARNING):
        row = tokenizer([prompt])[0]
    (bird,) = ids(tokenizer, "bird")
    start, end = tokenizer.start, tokenizer.end
    assert row.tolist() == [start, *[bird] * 75, end]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ([f"prompt of {words + 2} tokens truncated to 77; dropped: {cut!r}"] if cut else [])


def test_repeated_texts(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    """Their tokens are kept: calls with the same text return equal tensors, warn again, and know words added since."""
    texts = ["a red bird", "bird " * 80]
    first = tokenizer(texts)
    first += 1  # the caller may write to it
    assert torch.equal(tokenizer(texts), first - 1)
    assert len(caplog.messages) == 2
    tokenizer.add({"bird": [7, 8]})
    try:
        assert tokenizer(["a red bird"])[0].tolist()[3:5] == [7, 8]
    finally:
        tokenizer.words, tokenizer.pattern = {}, None
    assert torch.equal(tokenizer(texts), first - 1)


def test_first_folder_with_both_files_is_used(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "vocab.json").write_text("{}")
    assert load_tokenizer([tmp_path / "absent", tmp_path / "half", FOLDER], 77).vocabulary == len(TOKENS)


def test_tokenizer_json_alone_gives_the_same_tokens(tmp_path: Path) -> None:
    both = load_tokenizer([FOLDER], 77)
    both.encoder.save(str(tmp_path / "tokenizer.json"))
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    assert torch.equal(load_tokenizer([tmp_path], 77)(PROMPTS), both(PROMPTS))


def test_the_hugging_face_cache_is_read_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--somebody--tokens"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    shutil.copytree(FOLDER, repository / "snapshots" / "c0ffee")
    cached = load_tokenizer([tmp_path / "absent"], 77, "somebody/tokens")
    assert torch.equal(cached(PROMPTS), load_tokenizer([FOLDER], 77)(PROMPTS))


@pytest.mark.parametrize("on_hub", [None, "nobody/no-such-tokenizer"])
def test_error_names_missing_files(tmp_path: Path, on_hub: str | None) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(
        TokenizerError, match=r"vocab\.json and merges\.txt, or tokenizer\.json, in .*put them there"
    ) as caught:
        load_tokenizer([tmp_path / "absent", tmp_path / "half"], 77, on_hub)
    for place in (tmp_path / "absent", tmp_path / "half", on_hub or ""):
        assert str(place) in str(caught.value)


Change = Callable[[dict[str, Any], list[Any]], object]
TOKENS = json.loads((FOLDER / "vocab.json").read_text())
MERGES = (FOLDER / "merges.txt").read_text().splitlines()[1:]


def write(folder: Path, one_file: bool, change: Change) -> None:
    """Write the small tokenizer's files after `change(tokens, merges)`."""
    tokens, merges = dict(TOKENS), [*MERGES]
    change(tokens, merges)
    if one_file:
        load_tokenizer([FOLDER], 77).encoder.save(str(folder / "tokenizer.json"))
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"] |= {"vocab": tokens, "merges": merges}
        (folder / "tokenizer.json").write_text(json.dumps(content))
    else:
        (folder / "vocab.json").write_text(json.dumps(tokens))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


@pytest.mark.parametrize("one_file", [False, True])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tokens, merges: merges.clear(), "has 799 tokens, expected 514 for 0 merges"),
        (lambda tokens, merges: merges.__delitem__(slice(200, None)), "expected 714 for 200 merges"),
        (lambda tokens, merges: merges.append("q q"), r"has no token for the merge \['q', 'q'\]"),
        (lambda tokens, merges: merges.append("a b c"), r"has no token for the merge \['a', 'b', 'c'\]"),
        (lambda tokens, merges: tokens.update({"a": -1}), "does not number its 799 tokens from 0 to 798$"),
        (lambda tokens, merges: tokens.update({"a": 10**9}), "does not number its 799 tokens from 0 to 798$"),
        (lambda tokens, merges: tokens.update({"a": tokens["b"]}), "does not number its 799 tokens from 0 to 798$"),
        (lambda tokens, merges: tokens.update({"a": 1.0}), r"tokens from 0 to 798 \('a' has 1.0\)"),
        (lambda tokens, merges: tokens.update({"a": [1]}), r"tokens from 0 to 798 \('a' has \[1\]\)"),
        (
            lambda tokens, merges: tokens.update({"xyzzy": tokens.pop("<|endoftext|>")}),
            r"lacks the token <\|endoftext\|>",
        ),
        (lambda tokens, merges: tokens.clear(), "lacks the token"),
    ],
    ids=range(11),
)
def test_vocabulary_and_merges_belong_together(tmp_path: Path, one_file: bool, change: Change, problem: str) -> None:
    write(tmp_path, one_file, lambda tokens, merges: None)
    load_tokenizer([tmp_path], 77)
    write(tmp_path, one_file, change)
    file = "tokenizer.json" if one_file else "vocab.json"
    with pytest.raises(
        TokenizerError, match=rf"the tokenizer in .* cannot be read \({file} .*: fetch the files"
    ) as got:
        load_tokenizer([tmp_path], 77)
    assert re.search(problem, str(got.value).removesuffix("): fetch the files again"))


@pytest.mark.parametrize("model", [None, [], {"type": "WordPiece"}, {"type": "BPE", "end_of_word_suffix": None}])
def test_another_kind_of_tokenizer(tmp_path: Path, model: object) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is of another kind, expected CLIP's BPE with </w>"):
        load_tokenizer([tmp_path], 77)


@pytest.mark.parametrize("vocabulary", [b'{"a', b"[]", b'{"a": 0}', b"[" * 100_000, b"\xff", b'{"a": {"b": 0}}'])
@pytest.mark.parametrize("merges", [b"#version: 0.2\n", b"\xff\n"])
def test_error_names_damaged_files(tmp_path: Path, vocabulary: bytes, merges: bytes) -> None:
    (tmp_path / "vocab.json").write_bytes(vocabulary)
    (tmp_path / "merges.txt").write_bytes(merges)
    with pytest.raises(TokenizerError, match=rf"the tokenizer in {tmp_path} cannot be read \((vocab|merges)") as caught:
        load_tokenizer([tmp_path], 77)
    assert len(str(caught.value).splitlines()) == 1
