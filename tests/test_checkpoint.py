import logging
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cldm.checkpoint import SMALL_MODEL, Checkpoint
from cldm.checkpoint_choice import find_checkpoint
from ldm.weights import CheckpointError


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Unset the environment variable and return two default paths, both without a file."""
    monkeypatch.delenv("CANNY2IMAGE_CHECKPOINT", raising=False)
    found = tmp_path / "models.pth", tmp_path / "contest.pth"
    monkeypatch.setattr("cldm.checkpoint_choice.USUAL_PLACES", found)
    return found


def test_order_of_the_search(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cldm.checkpoint_choice")
    models, contest = places
    found = [find_checkpoint()]
    contest.touch()
    found.append(find_checkpoint())
    models.touch()
    found.append(find_checkpoint())
    monkeypatch.setenv("CANNY2IMAGE_CHECKPOINT", "/from/variable.pth")
    found.append(find_checkpoint())
    found.append(find_checkpoint(Path("given.safetensors")))
    assert [(checkpoint.name, checkpoint.architecture, checkpoint.chosen_by) for checkpoint in found] == [
        (str(SMALL_MODEL), "small", "no Stable Diffusion checkpoint found"),
        (str(contest), "sd15", "found"),
        (str(models), "sd15", "found"),
        ("/from/variable.pth", "sd15", "from $CANNY2IMAGE_CHECKPOINT"),
        ("given.safetensors", "sd15", "given"),
    ]
    assert [record.getMessage() for record in caplog.records] == [f"weights: {checkpoint}" for checkpoint in found]


@pytest.mark.parametrize(
    ("name", "architecture", "expected"),
    [("random:3", None, "small"), ("random:3", "sd15", "sd15"), ("x.pth", None, "sd15"), ("x.pth", "small", "small")],
)
def test_architecture(places: object, name: str, architecture: str | None, expected: str) -> None:
    assert find_checkpoint(name, architecture).architecture == expected


@pytest.mark.parametrize("name", ["random:", "random:x", "random:-1", "random:1.5", "random:0:0", "random: 1"])
def test_malformed_seed(name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"'{re.escape(name)}': expected random:SEED with a whole number"):
        find_checkpoint(name)


@pytest.mark.parametrize("use", ["load_model", "fingerprint"])
def test_folder_without_weights(tmp_path: Path, use: str) -> None:
    with pytest.raises(CheckpointError, match=rf"no weights in {tmp_path} \(it holds no files\): expected"):
        getattr(find_checkpoint(tmp_path, "small"), use)()


@pytest.mark.parametrize("use", ["load_model", "fingerprint"])
def test_missing_file(tmp_path: Path, use: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/absent\.pth does not exist: give"):
        getattr(find_checkpoint(tmp_path / "absent.pth", "small"), use)()


def test_missing_diffusers_folder(tmp_path: Path) -> None:
    pair = f"{tmp_path / 'sd15'}{os.pathsep}{tmp_path / 'controlnet'}"
    with pytest.raises(CheckpointError, match=rf"checkpoint {tmp_path}/sd15 does not exist: give"):
        find_checkpoint(pair, "small").load_model()


def test_fingerprint_of_a_file_depends_on_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(bytes(1 << 20))
    before = find_checkpoint(path).fingerprint()
    copy = tmp_path / "copy.pth"
    copy.write_bytes(path.read_bytes())
    assert find_checkpoint(copy).fingerprint() == before
    path.write_bytes(bytes((1 << 20) - 1) + b"\1")
    assert find_checkpoint(path).fingerprint() != before


def test_fingerprint_of_diffusers_folders_depends_on_the_files_read(tmp_path: Path) -> None:
    for folder in ("sd15/unet", "sd15/vae", "sd15/text_encoder", "controlnet"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.safetensors").write_text(folder)
    checkpoint = find_checkpoint(f"{tmp_path / 'sd15'}{os.pathsep}{tmp_path / 'controlnet'}")
    before = checkpoint.fingerprint()
    for folder in ("sd15/unet", "controlnet"):
        (tmp_path / folder / "model.safetensors").write_text("other")
        assert checkpoint.fingerprint() != before
        (tmp_path / folder / "model.safetensors").write_text(folder)
    (tmp_path / "sd15" / "unet" / "model.fp16.safetensors").write_text("another variant, which is not read")
    assert checkpoint.fingerprint() == before


def test_fingerprint_of_random_weights_depends_on_seed_and_architecture() -> None:
    choices = [("random:0", "small"), ("random:1", "small"), ("random:0", "sd15")]
    assert len({find_checkpoint(*choice).fingerprint() for choice in choices}) == len(choices)


def test_fingerprint_of_a_file_depends_on_the_architecture(tmp_path: Path) -> None:
    """The numbers of heads and groups change the pictures but no tensor's shape."""
    (tmp_path / "weights.pth").write_text("weights")
    small, large = (find_checkpoint(tmp_path / "weights.pth", name) for name in ("small", "sd15"))
    assert small.fingerprint() != large.fingerprint()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_saved_model_loads_unchanged(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    model = Checkpoint("random:5", "small", "test").load_model()
    state = model.state_dict()
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    loaded = Checkpoint(str(path), "small", "test").load_model()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_wrong_architecture_names_tensors(tmp_path: Path) -> None:
    state = Checkpoint("random:0", "small", "test").load_model().state_dict()
    torch.save(state, tmp_path / "small.pth")
    message = r"small\.pth holds 4 tensors that the model does not have, .*: choose a checkpoint and an architecture"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(str(tmp_path / "small.pth"), "sd15", "test").load_model()
