"""Engines for prompts in webui's syntax: compiled and exported stages, and the choice of engine files."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from build.measurement import check
from build.verify import prepare
from canny2image_TRT import hackathon
from cldm.checkpoint_choice import find_checkpoint
from cldm.engine_files import Target
from cldm.fast import make_fast
from cldm.prompt_syntax import PromptSyntax
from runtime.artifacts import EngineFileError
from runtime.backends import Backend
from runtime.eager import EagerEngine
from runtime.inductor import InductorEngine
from tests.arguments import process

CPU = torch.device("cpu")
TEXT_STAGES = ("text", "control", "encoder", "decoder")  # their inputs or outputs grow with the chunks
compiler = os.environ.get("CXX", "g++")


@pytest.mark.skipif(shutil.which(compiler) is None, reason=f"Inductor needs a C++ compiler, found no {compiler}")
@pytest.mark.parametrize("chunks", [1, 2])
def test_compiled_text_stage(chunks: int, tiny: None) -> None:
    size = (64, 64, 1, PromptSyntax("webui", chunks))
    trial = prepare(find_checkpoint("random:0", "tiny").load_model(), torch.float32, size, CPU)
    stage = trial.stages["text"]
    check([trial.measure(InductorEngine(stage.spec, stage.module))])


@pytest.mark.parametrize(
    ("chunks", "dtype", "stages"),
    [
        (1, torch.float32, ["text"]),  # the other stages are those of plain prompts
        (2, torch.float16, TEXT_STAGES),
    ],
)
def test_exported_stages(chunks: int, dtype: torch.dtype, stages: Sequence[str], tiny: None, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="./preprocess.sh dev installs the exporter and onnxruntime")
    from build.export import export
    from build.onnx_engine import OnnxEngine

    checkpoint, size = find_checkpoint("random:0", "tiny"), (64, 64, 1, PromptSyntax("webui", chunks))
    trial = prepare(checkpoint.load_model(), dtype, size, CPU)
    files = export(make_fast(checkpoint.load_model(), dtype), size, tmp_path, names=stages)
    check([trial.measure(OnnxEngine(spec, path)) for spec, path in files])


def test_engine_files_are_chosen_by_syntax_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    built = PromptSyntax("webui", 2)

    def find(target: Target, device: torch.device, weights: object = None) -> Backend:
        if target.syntax != built:
            raise EngineFileError("no such folder")
        return Backend(target.backend, EagerEngine)

    monkeypatch.setattr("cldm.engine_choice.find_engines", find)
    runtime = hackathon("random:0", backend="inductor", device="cpu", plan="19", prompt_syntax="webui", prompt_chunks=2)
    runtime.initialize()
    assert runtime.backend.name == "inductor"
    assert process(runtime)[0].shape == (64, 64, 3)
    for chunks in (1, 3):
        other = hackathon(
            "random:0", backend="inductor", device="cpu", plan="19", prompt_syntax="webui", prompt_chunks=chunks
        )
        with pytest.raises(EngineFileError, match="no such folder"):
            other.initialize()
