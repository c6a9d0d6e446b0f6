"""Engine files of the architecture "tiny", built by TensorRT for RTX for GPUs that are not in this machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import build.export
import build.verify
import cldm.engine_files
from cldm.checkpoint_choice import find_checkpoint
from cldm.engine_files import Target
from cldm.stages import make_stages
from runtime.tensorrt_library import LIBRARIES

CPU = torch.device("cpu")
CLASSIC, _, RTX = LIBRARIES
SIZE = "--architecture tiny --checkpoint random:0 --height 64 --width 64".split()
COMMAND = [*"--backend tensorrt --target sm86 8.9".split(), *SIZE]


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None) -> Path:
    monkeypatch.setattr(cldm.engine_files, "ENGINES", tmp_path / "engines")
    return tmp_path / "engines"


@pytest.fixture
def hint_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build one stage instead of six, to save time."""
    for user in (build.export, build.verify):
        monkeypatch.setattr(user, "make_stages", lambda *given: {"hint": make_stages(*given)["hint"]})


def target(**changes: Any) -> Target:
    return replace(Target("tiny", 64, 64, 1, "fp16", "tensorrt").of(find_checkpoint("random:0", "tiny")), **changes)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: int) -> torch.device:
    """Return the CPU, which passes for a GPU of this compute capability."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: divmod(capability, 10))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU of the tests")
    monkeypatch.setattr(cldm.engine_files, "check_device", lambda device, library=None: None)
    return CPU
