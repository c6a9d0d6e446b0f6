"""LoRAs under a running pipeline: in, out and exchanged, always equal to a fresh start bit for bit."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.checkpoint_choice import find_checkpoint
from ldm.config import load_architecture
from ldm.weights import CheckpointError, save_tensors
from tests.arguments import Picture, process
from tests.inside import pipelines_of
from weights.lora_names import TEXT, UNET, weight_shapes

SHAPES = weight_shapes(load_architecture("small"))


def write_lora(path: Path, seed: int, part: str) -> str:
    """Write a kohya LoRA of rank 4 for all weights whose name contains `part`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        if part not in name:
            continue
        rows, columns, *kernel = shape
        layer = name.removesuffix(".weight")
        prefix = UNET if layer.startswith(UNET) else TEXT
        kohya = {UNET: "lora_unet_", TEXT: "lora_te_text_model_"}[prefix]
        layer = kohya + layer.removeprefix(prefix).replace(".", "_")
        tensors[f"{layer}.lora_down.weight"] = torch.randn(4, columns, *kernel, generator=generator) * 0.1
        tensors[f"{layer}.lora_up.weight"] = torch.randn(rows, 4, *(1 for _ in kernel), generator=generator) * 0.1
        tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    safetensors.torch.save_file(tensors, path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("loras")
    return {
        "attention": write_lora(folder / "attention.safetensors", 1, "attn"),
        "time": write_lora(folder / "time.safetensors", 2, "emb"),
        "text": write_lora(folder / "text.safetensors", 3, "text_model"),
        "all": write_lora(folder / "all.safetensors", 4, ""),
    }


def start(**options: Any) -> hackathon:
    runtime = hackathon(str(SMALL_MODEL), plan="19,10", **options)
    runtime.initialize()
    return runtime


def picture(runtime: hackathon) -> Picture:
    return process(runtime)[0]


@pytest.fixture(scope="module")
def running() -> hackathon:
    return start()


CHOICES = [[("attention", 1.0)], [("time", 0.5)], [("text", -0.7)], [("all", 0.3)], [("attention", 1.0), ("text", 0.8)]]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "+".join(name for name, _ in choice))
def test_in_and_out_equal_a_fresh_start(
    choice: list[tuple[str, float]], files: dict[str, str], running: hackathon
) -> None:
    loras = [(files[name], strength) for name, strength in choice]
    running.set_loras([])
    plain = picture(running)
    graph = running.graph
    running.set_loras(loras)
    changed = picture(running)
    fresh = start(loras=loras)
    assert np.array_equal(changed, picture(fresh))
    assert not np.array_equal(changed, plain)
    ours, theirs = (pipelines_of(one).model.state_dict() for one in (running, fresh))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    running.set_loras([])
    assert np.array_equal(picture(running), plain)
    assert running.graph is graph, "captured again"


def test_exchanged_loras_leave_nothing_behind(files: dict[str, str], running: hackathon) -> None:
    for choice in ([("all", 1.0)], [("text", 0.5), ("attention", 0.5)], [("time", 1.0)]):
        running.set_loras([(files[name], strength) for name, strength in choice])
    fresh = start(loras=[(files["time"], 1.0)])
    assert np.array_equal(picture(running), picture(fresh))


def test_load_weights_with_loras(files: dict[str, str], running: hackathon, tmp_path: Path) -> None:
    loras = [(files["attention"], 1.0)]
    running.set_loras([(files["all"], 1.0)])
    running.load_weights("random:3", loras=loras)
    fresh = hackathon("random:3", plan="19,10", loras=loras)
    fresh.initialize()
    assert np.array_equal(picture(running), picture(fresh))
    running.set_loras([])
    running.load_weights("random:3")
    plain = picture(running)
    running.load_weights("random:3", loras=loras)
    running.set_loras([])
    assert np.array_equal(picture(running), plain)
    running.load_weights(str(SMALL_MODEL))


BAD: list[tuple[Any, type[Exception], str]] = [
    ([("absent.safetensors", 1.0)], CheckpointError, "LoRA absent.safetensors does not exist"),
    ([(str(SMALL_MODEL), 1.0)], CheckpointError, "is a checkpoint and no LoRA"),
    ([("x.safetensors", float("nan"))], ValueError, "strength of a LoRA: got nan"),
    ([("x.safetensors", "1")], TypeError, "strength of a LoRA: got '1', expected a number"),
    (None, TypeError, "loras: got None, expected a list"),
    (["x.safetensors"], TypeError, "loras: got 'x.safetensors', expected pairs"),
]


@pytest.mark.parametrize(("loras", "kind", "sentence"), BAD, ids=lambda value: str(value)[:20])
def test_bad_loras_change_nothing(loras: Any, kind: type[Exception], sentence: str, running: hackathon) -> None:
    running.set_loras([])
    before = picture(running)
    with pytest.raises(kind, match=sentence):
        running.set_loras(loras)
    with pytest.raises(kind, match=sentence):
        running.load_weights("random:1", loras=loras)
    assert np.array_equal(picture(running), before)
    assert running.checkpoint.loras == ()


def test_replaced_checkpoint_is_not_mixed_with_the_loaded_one(files: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(SMALL_MODEL, path)
    runtime = hackathon(str(path), plan="19")
    runtime.initialize()
    before = picture(runtime)
    save_tensors({name: t * 2 for name, t in runtime.checkpoint.load_model().state_dict().items() if "." in name}, path)
    with pytest.raises(ValueError, match=r"whose files have changed since they were loaded: call load_weights\(\)"):
        runtime.set_loras([(files["text"], 1.0)])
    assert np.array_equal(picture(runtime), before)
    runtime.load_weights(str(path))
    runtime.set_loras([(files["text"], 1.0)])


def test_before_initialize() -> None:
    with pytest.raises(RuntimeError, match=r"set_loras\(\) was called before initialize\(\)"):
        hackathon(str(SMALL_MODEL)).set_loras([])


def test_fingerprint_depends_on_files_strengths_and_order(files: dict[str, str]) -> None:
    one, two = files["attention"], files["text"]
    choices = [[], [(one, 1.0)], [(one, 0.5)], [(two, 1.0)], [(one, 1.0), (two, 1.0)], [(two, 1.0), (one, 1.0)]]
    assert len({find_checkpoint(SMALL_MODEL, loras=choice).fingerprint() for choice in choices}) == len(choices)


def test_the_log_names_loras_and_vae(files: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    find_checkpoint(SMALL_MODEL, vae="other.safetensors", loras=[(files["text"], 0.5)])
    assert f"with the VAE of other.safetensors + 0.5 x {files['text']} (small, given)" in caplog.text
