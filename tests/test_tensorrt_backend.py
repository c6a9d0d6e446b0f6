"""Backend tensorrt from engine files to the picture, on the stand-in: this tests our code, not TensorRT."""

# ruff: noqa: E402

import sys
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="./preprocess.sh dev installs the exporter and onnxruntime")

import build.verify
import cldm.engine_files
import cldm.pipeline
import files as project_files
import runtime.backends
import runtime.tensorrt
from build.export import export
from canny2image_TRT import hackathon
from cldm.checkpoint import Checkpoint
from cldm.checkpoint_choice import find_checkpoint
from cldm.engine_files import Target, expected_manifest
from cldm.fast import make_fast
from cldm.request import Request
from cldm.stages import make_stages
from ldm.weights import save_tensors
from runtime.artifacts import KERNELS, EngineFileError, save_stages
from runtime.spec import EngineSpec
from runtime.tensorrt import layout
from scoring.pictures import DRAWN_BIRDS, find_pictures
from tests.inside import engines_of, pipelines_of
from tests.standin import tensorrt as standin
from tests.test_tensorrt import aligned

CPU = torch.device("cpu")
ARCHITECTURE = "tiny"


def allocate(specs: Mapping[str, EngineSpec], device: torch.device) -> dict[str, Tensor]:
    """Return buffers like those of runtime.spec.allocate on a GPU: aligned, and channels-last if the spec says so."""
    tensors = {t.name: t for spec in specs.values() for t in (*spec.inputs, *spec.outputs)}
    return {name: aligned(tensor).zero_() for name, tensor in tensors.items()}


def use_standin(monkeypatch: pytest.MonkeyPatch, engines: Path, modules: tuple[str, ...] = ("tensorrt",)) -> None:
    """Install the stand-in as TensorRT, accept the CPU as a GPU of capability 8.9, use `engines` for engine files."""
    for name in ("tensorrt", "tensorrt_lean", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, standin if name in modules else None)
    monkeypatch.setattr(cldm.engine_files, "ENGINES", engines)
    for module in (runtime.tensorrt, runtime.backends, cldm.engine_files):
        monkeypatch.setattr(module, "check_device", lambda device, library=None: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Mock(cuda_stream=1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU of the tests")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    for user in (cldm.pipeline, build.verify):
        monkeypatch.setattr(user, "allocate", allocate)


def write_engines(seed: int, folder: Path, size: tuple[int, int, int] = (256, 384, 1), refit: bool = False) -> Target:
    """Write engine files for the stand-in with the weights random:SEED, in the format of `python -m build`.

    folder: for the ONNX files, which are written once. The engines have the magic of the library that the stand-in
    replaces.
    """
    checkpoint = find_checkpoint(f"random:{seed}", ARCHITECTURE)
    target = Target(ARCHITECTURE, *size, "fp32", "tensorrt", plugins=False, refit=refit).of(checkpoint)
    manifest = expected_manifest(target, CPU)
    magic = b"vtrt" if "RTX" in manifest.facts["tensorrt"] else b"ftrt"
    model = make_fast(checkpoint.load_model(), torch.float32)
    files = folder / f"{seed}_{target.folder.name}"
    if not files.exists():
        files.mkdir()
        list(export(model, size, files))
    plans = {}
    for name, stage in make_stages(model, *size).items():
        layouts = {tensor.name: layout(tensor) for tensor in (*stage.spec.inputs, *stage.spec.outputs)}
        plans[name] = standin.make_plan(files / f"{name}.onnx", layouts, refit, magic)
    save_stages(target.folder, plans, manifest)
    return target


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.fixture(autouse=True)
def _standin(monkeypatch: pytest.MonkeyPatch, engines: Path, tiny: None) -> None:
    use_standin(monkeypatch, engines)


def draw(runtime: hackathon, plan: str | None = None) -> Any:
    return runtime.draw(Request.contest(find_pictures(DRAWN_BIRDS)["bird_2"], seed=1), plan)[0]


def make(checkpoint: str, backend: str = "tensorrt", plan: str = "19,7") -> hackathon:
    return hackathon(checkpoint, architecture=ARCHITECTURE, backend=backend, plan=plan, device="cpu")


def test_from_engine_files_to_the_picture(files: Path) -> None:
    write_engines(0, files)
    made, eager = make("random:0"), make("random:0", "eager")
    for runtime_ in (made, eager):
        runtime_.initialize()
    assert made.backend.name == "tensorrt"
    assert {type(engine).__name__ for engine in engines_of(made)} == {"TensorRTEngine"}
    scratch = {engine.spec.name: engine.scratch.data_ptr() for engine in engines_of(made)}
    assert scratch["hint"] == scratch["control"]
    assert scratch["text"] == scratch["encoder"] == scratch["decoder"] == scratch["vae"]
    assert scratch["control"] != scratch["encoder"], "they run concurrently"
    assert (np.abs(draw(made).astype(int) - draw(eager)) <= 1).mean() > 0.99

    read = [weakref.ref(engine.engine) for engine in engines_of(made)]
    assert (np.abs(draw(made, "19,11,3").astype(int) - draw(eager, "19,11,3")) <= 1).mean() > 0.99
    assert [weakref.ref(engine.engine) for engine in engines_of(made)] == read, "another plan reads no engine again"
    pipelines_of(made).clear()
    assert {engine() for engine in read} == {None}, "engines without a pipeline are freed"
    assert draw(made).std() > 0, "engines are read again when needed"

    with pytest.raises(
        ValueError, match=r"got weights random:1 \(tiny, given\), but TensorRT's engines contain the weights of"
    ):
        made.load_weights("random:1")

    with pytest.raises(
        EngineFileError, match=r"weights is '\w+', expected '\w+'; build them with .*--weights random:1"
    ):
        make("random:1").initialize()


def test_auto_goes_on_where_a_plan_is_refused(
    files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_engines(0, files)
    runtime_ = make("random:0", "auto", plan="19")
    monkeypatch.setattr(runtime_, "_backends", ("tensorrt", "eager"))  # the backends of auto on a GPU
    standin.fail_once("deserialize_cuda_engine")
    runtime_.initialize()
    assert runtime_.backend.name == "eager"
    assert "backend tensorrt unavailable (engine text: the serialized engine cannot be read" in caplog.text
    strict = hackathon("random:0", architecture=ARCHITECTURE, plan="19", device="cpu", strict=True)
    monkeypatch.setattr(strict, "_backends", ("tensorrt", "eager"))
    standin.fail_once("deserialize_cuda_engine")
    with pytest.raises(ValueError, match="engine text: the serialized engine cannot be read"):
        strict.initialize()
    assert draw(runtime_).std() > 0


def test_the_checkpoint_is_read_for_its_fingerprint_only_where_engines_are(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is read once, regardless of the number of picture sizes."""
    read: list[Path] = []
    digest = project_files._file_digest.__wrapped__

    def spy(path: Path, size: int, modified: int) -> str:
        read.append(path)
        return digest(path, size, modified)

    monkeypatch.setattr(project_files, "_file_digest", cache(spy))
    checkpoint = tmp_path / "model.safetensors"
    save_tensors(find_checkpoint("random:0", ARCHITECTURE).load_model().state_dict(), checkpoint)
    tokenizer = find_checkpoint("random:0").load_tokenizer()
    monkeypatch.setattr(Checkpoint, "load_tokenizer", lambda self: tokenizer)
    runtime_ = make(str(checkpoint), "auto", plan="19")
    monkeypatch.setattr(runtime_, "_backends", ("tensorrt", "eager"))
    runtime_.initialize()
    assert read == []
    target = Target(ARCHITECTURE, 256, 384, 1, "fp32", "tensorrt")
    for other in (target, replace(target, height=64), replace(target, width=64)):
        other.folder.mkdir(parents=True)
        for _ in range(2):
            runtime_._engines._find(other, ("tensorrt",))
    assert read == [checkpoint]
    checkpoint.write_bytes(checkpoint.read_bytes() + b" ")
    runtime_._engines._find(target, ("tensorrt",))
    assert read == [checkpoint, checkpoint], "a changed file is read again"


def test_plans_of_rtx_keep_their_kernels_beside_them(
    files: Path, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_standin(monkeypatch, engines, ("tensorrt", "tensorrt_rtx"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", None)
        target = write_engines(0, files)
    kernels = target.folder / KERNELS
    for starts in (1, 2):
        runtime_ = make("random:0", plan="19")
        runtime_.initialize()
        assert kernels.read_bytes() == standin.IRuntimeCache.HEADER + 6 * starts * b".", "once for each engine"
    libraries = {engine.library.title for engine in engines_of(runtime_)}
    assert libraries == {"TensorRT for RTX"}, "chosen by the magic, although TensorRT is installed too"


def test_where_tensorrt_cannot_run_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"TensorRT engines need a CUDA device: got cpu, .*; use backend eager"):
        hackathon("random:0", backend="tensorrt", device="cpu")
