"""A runtime chooses engines and graphs, falls back where they are missing, and logs its fallbacks."""

import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from canny2image_TRT import hackathon
from cldm.engine_choice import Engines
from cldm.engine_files import Target
from cldm.loaded_weights import LoadedWeights
from cldm.model import ControlLDM
from runtime.artifacts import EngineFileError
from runtime.backends import Backend
from runtime.cuda import CaptureError, CudaError
from runtime.eager import EagerEngine
from tests.arguments import process
from tests.inside import pipelines_of


@pytest.fixture(autouse=True)
def no_engine_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cldm.engine_files.ENGINES", tmp_path)


def test_chosen_backend_without_engine_files_raises() -> None:
    runtime = hackathon("random:0", backend="inductor", device="cpu", plan="19")
    with pytest.raises(
        EngineFileError, match="build them with python -m build --backend inductor --architecture small"
    ):
        runtime.initialize()


def test_auto_falls_back_to_eager_and_logs_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = hackathon("random:0", device="cpu", plan="19")
    monkeypatch.setattr(runtime, "_backends", ("inductor", "eager"))  # the backends that auto tries on a GPU
    caplog.set_level("INFO", "cldm.engine_choice")
    runtime.initialize()
    assert runtime.backend.name == "eager"
    assert "backend inductor unavailable for 256x384, batch 1 (engine files " in caplog.text
    assert "backend: eager on cpu" in caplog.text


def test_sizes_without_engine_files_run_eagerly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mock replaces the compiled engines. Engine files exist for the contest's size only."""

    asked: list[Target] = []

    def find(target: Target, device: torch.device, weights: object = None) -> Backend:
        asked.append(target)
        if (target.height, target.width, target.samples) != (256, 384, 1):
            raise EngineFileError("the folder does not exist")
        return Backend(target.backend, compiled)

    compiled = Mock(side_effect=EagerEngine)
    monkeypatch.setattr("cldm.engine_choice.find_engines", find)
    runtime = hackathon("random:0", backend="inductor", device="cpu", plan="19")
    runtime.initialize()
    assert compiled.call_count == 6
    process(runtime)
    assert (runtime.backend.name, compiled.call_count) == ("inductor", 6)
    assert (
        "backend inductor unavailable for 64x64, batch 1 (the folder does not exist); "
        "falling back to the next backend, or to eager if none is left"
    ) in caplog.text
    assert len(asked) == len(set(asked)) == 2, "engine files were not read exactly once per size"


def test_code_is_loaded_while_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, threads = threading.Event(), []

    def find(target: Target, device: torch.device, weights: object = None) -> Backend:
        begun.set()
        threads.append(threading.current_thread())
        return Backend(target.backend, EagerEngine)

    def load(weights: LoadedWeights, engines: Engines) -> ControlLDM:
        assert begun.wait(timeout=60)
        return load_weights(weights, engines)

    load_weights = LoadedWeights.load
    monkeypatch.setattr(LoadedWeights, "load", load)
    monkeypatch.setattr("cldm.engine_choice.find_engines", find)
    runtime = hackathon("random:0", backend="inductor", device="cpu", plan="19")
    replace(runtime._engines.contest, backend="inductor").folder.mkdir()
    runtime.initialize()
    assert runtime.backend.name == "inductor"
    (thread,) = threads
    assert thread is not threading.current_thread()


def test_what_another_thread_cannot_load_is_raised() -> None:
    runtime = hackathon("random:0", backend="inductor", device="cpu", plan="19")
    replace(runtime._engines.contest, backend="inductor").folder.mkdir()
    for _ in range(2):
        with pytest.raises(EngineFileError, match=r"engines\.bin is missing; build them with python -m build"):
            runtime.initialize()


def test_other_sizes_use_the_chosen_backend_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of another backend would change the weights' memory format under a captured graph."""
    asked: list[tuple[str, int]] = []

    def find(target: Target, device: torch.device, weights: object = None) -> Backend:
        asked.append((target.backend, target.height))
        if (target.backend, target.height) == ("inductor", 256):
            raise EngineFileError("the folder does not exist")
        return Backend(target.backend, EagerEngine)

    monkeypatch.setattr("cldm.engine_choice.find_engines", find)
    runtime = hackathon("random:0", device="cpu", plan="19")
    monkeypatch.setattr(runtime, "_backends", ("inductor", "eager"))
    runtime.initialize()
    process(runtime)
    assert asked == [("inductor", 256), ("eager", 256), ("eager", 64)]


def test_strict_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With strict, a picture size without engine files of the chosen backend raises."""

    def find(target: Target, device: torch.device, weights: object = None) -> Backend:
        if target.backend == "inductor" and target.height != 256:
            raise EngineFileError("the folder does not exist")
        return Backend(target.backend, EagerEngine)

    monkeypatch.setattr("cldm.engine_choice.find_engines", find)
    runtime = hackathon("random:0", device="cpu", plan="19", strict=True)
    monkeypatch.setattr(runtime, "_backends", ("inductor", "eager"))
    runtime.initialize()
    assert runtime.backend.name == "inductor"
    with pytest.raises(EngineFileError, match="the folder does not exist"):
        process(runtime)


@pytest.fixture
def on_a_gpu(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> hackathon:
    """Return the runtime set up so that it treats its device as a GPU when it creates pipelines."""
    monkeypatch.setattr(runtime._engines, "device", torch.device("cuda"))
    monkeypatch.setattr(pipelines_of(runtime), "kept", OrderedDict())
    return runtime


def test_runs_without_a_graph_if_capture_fails(
    on_a_gpu: hackathon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cldm.pipeline_cache.record", Mock(side_effect=CaptureError("operation not permitted")))
    assert process(on_a_gpu)[0].std() > 1
    assert "no CUDA graph, launching kernels one by one: operation not permitted" in caplog.text
    assert on_a_gpu.graph is None
    assert on_a_gpu.settings["graph"] == "no graph: operation not permitted"
    monkeypatch.setattr(pipelines_of(on_a_gpu), "strict", True)
    with pytest.raises(CaptureError, match="operation not permitted"):
        process(on_a_gpu, num_samples=2)


@pytest.mark.parametrize("error", [CudaError("graph replay differs"), RuntimeError("not of the device")])
def test_other_errors_propagate(on_a_gpu: hackathon, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    monkeypatch.setattr("cldm.pipeline_cache.record", Mock(side_effect=error))
    with pytest.raises(type(error), match=str(error)):
        process(on_a_gpu)
    assert not pipelines_of(on_a_gpu).kept


def test_properties_describe_the_last_picture(on_a_gpu: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("graph", "settings", "latent"):
        with pytest.raises(RuntimeError, match=rf"{name} needs a generated picture: call initialize\(\)"):
            getattr(on_a_gpu, name)
    graph = Mock(nodes=7017)

    def record(pipeline: Any, request: Any, tokenizer: Any) -> None:
        pipeline.graph = graph
        graph.launch.side_effect = pipeline.run

    monkeypatch.setattr("cldm.pipeline_cache.record", record)
    process(on_a_gpu)
    assert on_a_gpu.graph is graph
    assert on_a_gpu.settings["graph"] == "one graph of 7017 nodes"
    assert on_a_gpu.settings["evaluates"] == "2 of 20 steps"


def test_on_the_cpu_there_is_no_graph(runtime: hackathon) -> None:
    process(runtime)
    assert runtime.graph is None
    assert runtime.settings["graph"] == "no graph: the CPU has none"
