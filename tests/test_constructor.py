"""Each wrong argument of the constructor gives one sentence that names it, before any weight is read."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL, Checkpoint
from cldm.checkpoint_choice import VARIABLE, find_checkpoint
from ldm.config import MODELS
from ldm.weights import CheckpointError
from plans.choice import PlanChoice

ARGUMENTS = (
    "checkpoint architecture backend plan max_pd precision device strict vae loras embeddings prompt_syntax "
    "prompt_chunks"
).split()
WRONG: tuple[Any, ...] = (
    b"cpu", [["cpu"]], {}, object, torch.zeros(2), np.zeros(2), float("nan"), "\ud800", "a\0b", "x" * 5000, 10**5000,
)  # fmt: skip
MORE: dict[str, tuple[Any, ...]] = {
    "checkpoint": (3, True, "", " ", "random:x", "random:" + "9" * 99, ["a"]),
    "architecture": ("", "../small", 3, Path("small")),
    "backend": (None, ["eager"], "cuda", "", 3, True),
    "plan": (None, True, [19, 4], ""),
    "max_pd": ("3", True, [3], -1, 0, 10**400),
    "precision": (None, 16, "bf16", "", torch.float16),
    "device": (None, 3, True, "", "cuda:99", "cuda:-1", "meta", "cpu:1", "cuda:x", "cuda:99999999999", "cuda:٣", "mps"),
    "strict": (None, "yes", 1, 0, ""),
    "vae": (3, "", " ", True),
    "loras": (None, "file", [("a", float("nan"))], [("a", "1")], [("a", 10**400)], ["ab", "c"], [(3, 1.0)], [("", 1)]),
    "embeddings": (None, "file", Path("file"), [3], [None], [""], ["a\0b"]),
    "prompt_syntax": (None, "webUI", "", ["plain"]),
    "prompt_chunks": (None, 1.5, True, "2", 0, -1, 9, 10**400),
}
CASES = [(name, value) for name in ARGUMENTS for value in (*WRONG, *MORE[name])]


@pytest.mark.parametrize(("name", "value"), CASES, ids=range(len(CASES)))
def test_a_wrong_argument_is_named(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for reader in ("load_model", "load_tokenizer", "patches"):
        monkeypatch.setattr(Checkpoint, reader, lambda *arguments: pytest.fail("weights were read"))
    options: dict[str, Any] = {"checkpoint": SMALL_MODEL, "device": "cpu", "plan": "all"}
    if name == "max_pd":
        options["plan"] = "auto"
    with pytest.raises((TypeError, ValueError)) as caught:
        hackathon(**{**options, name: value})
    said = str(caught.value)
    assert name in said.replace("strength of a LoRA", "loras").replace("weights", "checkpoint")
    assert len(said.splitlines()) == 1
    assert len(said) < 500
    said.encode()


def test_paths_and_integers_of_other_kinds() -> None:
    runtime = hackathon(SMALL_MODEL, plan=np.int64(8), device="cpu", prompt_syntax="webui", prompt_chunks=np.int64(2))  # type: ignore[arg-type]
    assert runtime.checkpoint.name == str(SMALL_MODEL)


@pytest.mark.parametrize("value", ["b" * 5000, " ", "random:x"], ids=range(3))
def test_a_wrong_variable_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=rf"\${VARIABLE}: got|expected random:SEED"):
        find_checkpoint()


def test_a_missing_file_of_the_variable(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(VARIABLE, "/absent.pth")
    with pytest.raises(CheckpointError, match=r"/absent\.pth does not exist"):
        find_checkpoint().check()
    monkeypatch.setenv(VARIABLE, "")
    find_checkpoint()
    assert f"${VARIABLE} is empty: choosing the weights as if it were not set" in caplog.text


def test_paths_stay_the_same_files_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base.pth", "control.pth", "vae.pt", "lora.safetensors", "word.pt", "own.json"):
        Path(name).touch()
    shutil.copy(next(MODELS.glob("plans/small_*.json")), "own.json")
    found = find_checkpoint("base.pth:./control.pth", "small", "vae.pt", [("lora.safetensors", 1.0)], ["word.pt"])
    plan = PlanChoice("own.json", "small")
    monkeypatch.chdir("/")
    assert found.name == f"{tmp_path}/base.pth:{tmp_path}/control.pth"
    assert (found.vae, found.embeddings) == (f"{tmp_path}/vae.pt", (f"{tmp_path}/word.pt",))
    assert found.loras == ((f"{tmp_path}/lora.safetensors", 1.0),)
    assert plan(20).steps == 20
    assert find_checkpoint("somebody/model", "small").name == "somebody/model", "may be an id on the hub"
