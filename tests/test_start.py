"""What initialize() does on a CPU, and what it reports if files are missing."""

from pathlib import Path

import pytest

import cldm.checkpoint
from canny2image_TRT import hackathon
from cldm.checkpoint import Checkpoint
from ldm.tokenizer import TokenizerError
from ldm.weights import CheckpointError
from tests.arguments import process


def test_one_evaluation_of_a_small_picture_on_a_cpu() -> None:
    runtime = hackathon("random:0", device="cpu", plan="19,10,4")
    runtime.initialize()
    assert (runtime.settings["evaluates"], runtime.settings["plan"]) == ("1 of 20 steps", "19")
    assert runtime.latent.shape == (1, 4, 8, 8), "the first picture has 64x64 pixels"
    process(runtime)
    assert (runtime.settings["evaluates"], runtime.settings["plan"]) == ("3 of 20 steps", "19,10,4")


@pytest.fixture
def no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(cldm.checkpoint, "MODELS", tmp_path / "models")


@pytest.mark.usefixtures("no_tokenizer")
def test_both_missing_files_are_named(tmp_path: Path) -> None:
    runtime = hackathon(str(tmp_path / "absent.safetensors"), device="cpu")
    with pytest.raises(CheckpointError, match=r"absent.safetensors does not exist: give.*; also, no tokenizer: looked"):
        runtime.initialize()
    with pytest.raises(CheckpointError, match=r"absent does not exist[^;]*$"):
        hackathon(str(tmp_path / "absent"), architecture="small", device="cpu").initialize()


@pytest.mark.usefixtures("no_tokenizer")
def test_the_tokenizer_may_lie_beside_the_checkpoint(tmp_path: Path) -> None:
    file, folder = tmp_path / "sd.safetensors", tmp_path / "pipeline"
    file.touch()
    folder.mkdir()
    for path, beside in ((file, tmp_path), (folder, folder)):
        with pytest.raises(TokenizerError, match=f"in {beside}/tokenizer, {beside}, {tmp_path}/models/tokenizer,"):
            Checkpoint(str(path), "sd15", "given").load_tokenizer()
