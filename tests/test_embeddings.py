"""Textual-inversion embeddings: words of prompts whose vectors the text encoder reads from a file."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.checkpoint_choice import find_checkpoint
from cldm.reference import reference_pictures
from cldm.request import Request
from ldm.config import load_architecture
from ldm.weights import CheckpointError
from runtime.backends import leave_out_tensorrt
from tests.arguments import GOOD, process
from weights.embeddings import read_embeddings

WIDTH = 96
VECTORS = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))


def write(path: Path, content: dict[str, Any]) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return str(path)


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("my-cat.safetensors", {"emb_params": VECTORS}, "my-cat"),
        ("My-Cat.pt", {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "name": "x"}, "my-cat"),
        ("my-cat.bin", {"emb_params": VECTORS.half()}, "my-cat"),
        ("learned_embeds.bin", {"<cat-toy>": VECTORS[0]}, "<cat-toy>"),
    ],
)
def test_layouts(file: str, content: dict[str, Any], word: str, tmp_path: Path) -> None:
    name = write(tmp_path / file, content)
    ((found, vectors),) = read_embeddings([name], WIDTH).items()
    assert found == word
    expected = VECTORS[:1] if "toy" in word else VECTORS
    assert torch.allclose(vectors, expected, atol=2e-3)
    if file.startswith("learned"):
        assert torch.equal(read_embeddings([str(tmp_path)], WIDTH)[word], vectors)


def context(prompt: str, embeddings: list[str]) -> Tensor:
    checkpoint = find_checkpoint(SMALL_MODEL, embeddings=embeddings)
    with torch.inference_mode():
        return checkpoint.load_model().text(checkpoint.load_tokenizer()([prompt]))


def test_a_word_reads_its_vectors(tmp_path: Path) -> None:
    """An embedding with the vectors of known tokens is equal to those tokens."""
    checkpoint = find_checkpoint(SMALL_MODEL)
    tokenizer, model = checkpoint.load_tokenizer(), checkpoint.load_model()
    ids = tokenizer(["red bird"])[0]
    ids = ids[1 : ids.tolist().index(tokenizer.end)]
    vectors = model.text.embeddings.token_embedding.weight[ids.long()]
    files = [write(tmp_path / "it.safetensors", {"emb_params": vectors.contiguous()})]
    for word in ("it", "IT", "It"):
        assert torch.equal(context(f"a {word}, in the mountains", files), context("a red bird, in the mountains", []))
    assert torch.equal(context("with item and bit", files), context("with item and bit", []))
    assert torch.equal(context("a \u0131t", files), context("a \u0131t", [])), "the dotless i is another word"


def test_pictures_and_reference_agree(tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{name}.safetensors", {"emb_params": VECTORS * k}) for k, name in enumerate(("aa", "bb"), 1)
    ]
    runtime = hackathon(str(SMALL_MODEL), plan="all", embeddings=files, device="cpu")
    runtime.initialize()
    request = {"prompt": "a bird in the style of bb, aa", "ddim_steps": 4, "seed": 5}
    ours = process(runtime, **request)[0]
    other = process(runtime, **{**request, "prompt": "a bird in the style of aa, bb"})[0]
    assert not np.array_equal(ours, other)
    model, tokenizer = runtime.checkpoint.load_model(), runtime.checkpoint.load_tokenizer()
    theirs = reference_pictures(model, tokenizer, Request(**{**GOOD, **request}))[0]
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    runtime.load_weights("random:1")
    fresh = hackathon("random:1", plan="all", embeddings=files, device="cpu")
    fresh.initialize()
    assert np.array_equal(process(runtime, **request)[0], process(fresh, **request)[0])


def test_random_weights_have_embeddings_too(tmp_path: Path) -> None:
    files = [write(tmp_path / "aa.safetensors", {"emb_params": VECTORS})]
    checkpoint = find_checkpoint("random:0", embeddings=files)
    vocabulary = load_architecture("small").text.vocabulary
    assert vocabulary in checkpoint.load_tokenizer()(["a bird, aa"])[0]


def test_a_long_prompt_is_truncated_inside_an_embedding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [write(tmp_path / "aa.safetensors", {"emb_params": VECTORS})]
    tokenizer = find_checkpoint(SMALL_MODEL, embeddings=files).load_tokenizer()
    with caplog.at_level(logging.WARNING):
        row = tokenizer([" ".join(["bird"] * 74 + ["aa", "bird"])])[0]
    assert len(row) == 77
    assert "prompt of 80 tokens truncated to 77; dropped: 'bird'" in caplog.text
    assert "aa" in tokenizer.text(row[70:].tolist())


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("wide.safetensors", {"emb_params": torch.ones(1, 768)}, CheckpointError, r"\[1, 768\], expected \[vectors, 96\]"),
    ("long.pt", {"emb_params": torch.ones(1, 1).expand(2**40, WIDTH)}, CheckpointError, "with 1 to 600 vectors"),
    ("nan.safetensors", {"emb_params": torch.full((1, WIDTH), torch.nan)}, CheckpointError, "holds NaN"),
    ("lora.safetensors", {"lora_unet_a.alpha": torch.ones(1), "b": torch.ones(1)}, CheckpointError, "is a LoRA"),
    ("two.safetensors", {"a": torch.ones(1), "b": torch.ones(1)}, CheckpointError, "something else"),
    ("complex.pt", {"emb_params": torch.ones(1, WIDTH) * 1j}, CheckpointError, "torch.complex64 vectors"),
    ("sparse.pt", {"emb_params": torch.ones(1, WIDTH).to_sparse()}, CheckpointError, "is a sparse_coo tensor"),
]


@pytest.mark.parametrize(("file", "content", "kind", "sentence"), BAD, ids=lambda value: str(value)[:20])
def test_bad_files(file: str, content: dict[str, Any], kind: type[Exception], sentence: str, tmp_path: Path) -> None:
    checkpoint = find_checkpoint(SMALL_MODEL, embeddings=[write(tmp_path / file, content)])
    with pytest.raises(kind, match=sentence):
        checkpoint.load_tokenizer()


def test_a_word_given_twice(tmp_path: Path) -> None:
    files = [write(tmp_path / name, {"emb_params": VECTORS}) for name in ("aa.safetensors", "AA.pt")]
    with pytest.raises(CheckpointError, match=r"gives the word 'AA' again: rename one of the files"):
        read_embeddings(files, WIDTH)


def test_missing_file() -> None:
    with pytest.raises(CheckpointError, match=r"^embedding absent\.pt does not exist"):
        read_embeddings(["absent.pt"], WIDTH)


def test_tensorrt_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="backend tensorrt: no tokens: use backend inductor or eager"):
        leave_out_tensorrt(("tensorrt",), "no tokens")
    with caplog.at_level(logging.INFO):
        assert leave_out_tensorrt(("tensorrt", "inductor", "eager"), "no tokens") == ("inductor", "eager")
    assert "backend tensorrt left out: no tokens" in caplog.text
