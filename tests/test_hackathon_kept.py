"""What a runtime keeps between calls: plans, pipelines, weights."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.engine_files import Target
from cldm.request import Request
from ldm.weights import CheckpointError
from runtime.artifacts import EngineFileError
from runtime.backends import Backend
from runtime.eager import EagerEngine
from tests.arguments import GOOD, process
from tests.inside import last_of, pipelines_of


def test_a_plan_file_is_read_once(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(**GOOD)
    (held,) = runtime.draw(request, "small_6")
    assert len(last_of(runtime).shape.plan.taps) == 6
    monkeypatch.setattr("plans.choice.choose_plan", None)
    assert (runtime.draw(request, "small_6")[0] == held).all()


@pytest.mark.parametrize(("plan", "warns"), [("ten", True), ("all", False), ("12,3", False)])
def test_plan_for_another_step_count_evaluates_all_steps_and_warns_once(
    runtime: hackathon, caplog: pytest.LogCaptureFixture, plan: str, warns: bool
) -> None:
    for _ in range(2):
        runtime.draw(Request(**{**GOOD, "ddim_steps": 12}), plan)
    sentence = "plan ten evaluates every step if there are 13 steps"
    assert caplog.messages.count(sentence) == int(warns), "expected one warning for plan ten only"
    assert runtime.settings["evaluates"] == ("2 of 13 steps" if plan == "12,3" else "13 of 13 steps")


def test_returned_picture_belongs_to_the_caller(runtime: hackathon) -> None:
    mine = runtime.process(**GOOD)[0]
    copy = mine.copy()
    runtime.process(**{**GOOD, "seed": 6})
    assert np.array_equal(mine, copy), "the next call overwrote the picture"
    mine[:] = 0  # also writable
    assert np.array_equal(process(runtime)[0], copy)


def test_initialize_again_starts_over() -> None:
    runtime = hackathon("random:0", device="cpu", plan="19")
    for _ in range(2):
        runtime.initialize()
        drawing = pipelines_of(runtime)
        assert [pipeline.model for pipeline in drawing.kept.values()] == [drawing.model]


def test_log_records_do_not_keep_pipelines_alive(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Log records contain strings: an exception in a record would keep its frames alive, and thus pipelines."""

    def find(target: Target, device: torch.device, weights: object = None) -> Backend:
        if target.samples != 1:
            raise EngineFileError("the folder does not exist")
        return Backend(target.backend, EagerEngine)

    monkeypatch.setattr("cldm.engine_choice.find_engines", find)
    monkeypatch.setattr("cldm.pipeline_cache.KEPT", 1)
    runtime = hackathon("random:0", backend="inductor", device="cpu", plan="19")
    runtime.initialize()
    process(runtime, num_samples=2)
    assert "backend inductor unavailable for 64x64, batch 2 (the folder does not exist)" in caplog.text
    (evicted,) = map(weakref.ref, pipelines_of(runtime).kept.values())
    process(runtime)
    assert evicted() is None


def test_only_the_last_used_pipelines_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cldm.pipeline_cache.KEPT", 2)
    runtime = hackathon("random:0", plan="19", device="cpu")
    runtime.initialize()
    first = process(runtime)[0]
    one = weakref.ref(last_of(runtime))
    process(runtime, num_samples=2)
    assert len(pipelines_of(runtime).kept) == 2, "the pipeline of initialize() was not evicted"
    two = weakref.ref(last_of(runtime))
    process(runtime)
    assert last_of(runtime) is one(), "the kept pipeline was not reused"
    process(runtime, image_resolution=128)
    assert one() is not None
    assert two() is None, "the least recently used pipeline was not freed"
    assert np.array_equal(process(runtime)[0], first)


def test_load_weights_keeps_the_pipelines() -> None:
    runtime = hackathon("random:0", plan="19,4", device="cpu")
    runtime.initialize()
    calls: list[dict[str, Any]] = [{}, {"num_samples": 2, "eta": 0.5}]
    before = [process(runtime, **call) for call in calls]
    drawing = pipelines_of(runtime)
    pipelines, places = list(drawing.kept.values()), [p.data_ptr() for p in drawing.model.parameters()]
    for weights in (str(SMALL_MODEL), "random:0"):
        runtime.load_weights(weights)
        fresh = hackathon(weights, plan="19,4", device="cpu")
        fresh.initialize()
        for call in calls:
            assert np.array_equal(process(runtime, **call), process(fresh, **call)), "differs from a new runtime"
    assert runtime.checkpoint.name == "random:0"
    assert np.array_equal(process(runtime, **calls[1]), before[1])
    assert set(drawing.kept.values()) == set(pipelines)
    assert [p.data_ptr() for p in drawing.model.parameters()] == places


def test_weights_that_do_not_fit_change_nothing(runtime: hackathon, tmp_path: Path) -> None:
    before, checkpoint = process(runtime), runtime.checkpoint
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in (tmp_path / "other.safetensors", tmp_path / "absent.pth"):
        with pytest.raises(CheckpointError, match=name.name):
            runtime.load_weights(str(name))
    assert runtime.checkpoint is checkpoint
    assert np.array_equal(process(runtime), before)
    with pytest.raises(RuntimeError, match=r"load_weights\(\) was called before initialize\(\)"):
        hackathon("random:0").load_weights("random:1")
