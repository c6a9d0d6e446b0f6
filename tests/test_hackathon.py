import inspect
import subprocess
import sys
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.engine_files import Target
from ldm.weights import CheckpointError
from runtime.artifacts import EngineFileError
from runtime.backends import PRECISIONS, Backend
from runtime.cuda import CaptureError, CudaError
from runtime.eager import EagerEngine

Picture = NDArray[np.uint8]
CONTRACT = [
    "self", "input_image", "prompt", "a_prompt", "n_prompt", "num_samples", "image_resolution", "ddim_steps",
    "guess_mode", "strength", "scale", "seed", "eta", "low_threshold", "high_threshold",
]  # fmt: skip


def waves(height: int, width: int) -> Picture:
    """Smooth bands: canny finds no edge at high thresholds and many at low ones."""
    rows, columns = np.mgrid[:height, :width]
    channels = [np.sin(rows / 9), np.cos(columns / 5), np.sin((rows + columns) / 7)]
    return (127 + 40 * np.stack(channels, axis=-1)).astype(np.uint8)


GOOD: dict[str, Any] = {
    "input_image": waves(64, 64),
    "prompt": "a bird",
    "a_prompt": "best quality",
    "n_prompt": "lowres",
    "num_samples": 1,
    "image_resolution": 64,
    "ddim_steps": 20,
    "guess_mode": False,
    "strength": 1.0,
    "scale": 9.0,
    "seed": 5,
    "eta": 0.0,
    "low_threshold": 100,
    "high_threshold": 200,
}


@pytest.fixture(scope="module")
def runtime() -> hackathon:
    made = hackathon("random:0", plan="19,4", device="cpu")
    made.initialize()
    return made


@pytest.fixture(scope="module")
def trained() -> hackathon:
    """Of weights to which edges and words say something."""
    made = hackathon(str(SMALL_MODEL), plan="19,4", device="cpu")
    made.initialize()
    return made


def process(runtime: hackathon, **changes: Any) -> list[Picture]:
    """Copies, so that a test of something else does not depend on whose memory the pictures are."""
    return [picture.copy() for picture in runtime.process(**{**GOOD, **changes})]


def test_signatures_are_the_contest_s() -> None:
    assert hackathon.__name__ == "hackathon"
    assert list(inspect.signature(hackathon.initialize).parameters) == ["self"]
    parameters = inspect.signature(hackathon.process).parameters
    assert list(parameters) == CONTRACT
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters.values())


def test_constructor_needs_no_argument() -> None:
    runtime = hackathon()
    with pytest.raises(RuntimeError, match=r"before initialize\(\): call initialize\(\) once first"):
        process(runtime)


@pytest.mark.parametrize("plan", ["", "two", "4,19", "19,4,4", "19,-1", "20,4", "19,", "19;4", "19,4.0"])
def test_bad_plan_is_an_error_of_the_constructor(plan: str) -> None:
    with pytest.raises(ValueError, match=r"plan .*(expected (all, ten or )?step indices|no ddim_steps makes 21 steps)"):
        hackathon("random:0", plan=plan)


def test_a_plan_of_another_step_count_is_a_choice() -> None:
    assert hackathon("random:0", plan="9,5,2").plan == "9,5,2", "the constructor cannot know ddim_steps"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"device": "tpu"}, "device 'tpu'"),
        ({"backend": "fast"}, "backend 'fast'"),
        ({"device": "cpu", "precision": "fp16"}, "precision 'fp16'"),
        ({"precision": "half"}, "precision 'half'"),
        ({"max_pd": 5.0}, "max_pd: got 5.0 with plan 'ten', expected plan 'auto'"),
        ({"plan": "auto", "max_pd": -1.0}, "max_pd: got -1.0, expected a finite distance above 0"),
    ],
)
def test_bad_choice_is_an_error_of_the_constructor(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hackathon("random:0", **choice)


@pytest.mark.parametrize("samples", [1, 3])
def test_one_picture_per_sample(runtime: hackathon, samples: int) -> None:
    pictures = runtime.process(**{**GOOD, "num_samples": samples})
    assert isinstance(pictures, list)
    assert [p.shape for p in pictures] == [(64, 64, 3)] * samples
    assert all(type(p) is np.ndarray and p.dtype == np.uint8 for p in pictures)
    assert len({p.tobytes() for p in pictures}) == samples
    assert all(p.std() > 1 for p in pictures)


def test_by_position_as_the_contest_calls_it(runtime: hackathon) -> None:
    by_name = process(runtime)[0]
    assert np.array_equal(runtime.process(*GOOD.values())[0], by_name)


def test_same_arguments_same_picture(runtime: hackathon) -> None:
    first = process(runtime)[0]
    process(
        runtime,
        seed=6,
        prompt="a dog",
        scale=3.0,
        strength=0.2,
        guess_mode=True,
        eta=1.0,
        input_image=255 - waves(64, 64),
    )
    assert np.array_equal(process(runtime)[0], first)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"prompt": "a hand"},
        {"a_prompt": "bad quality"},
        {"n_prompt": "hands"},
        {"scale": 4.0},
        {"strength": 0.3},
        {"low_threshold": 20, "high_threshold": 50},
        {"guess_mode": True},
        {"eta": 0.7},
        {"input_image": np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)},
    ],
    ids=lambda change: "-".join(change),
)
def test_every_argument_changes_the_picture(trained: hackathon, change: dict[str, Any]) -> None:
    before, after = process(trained)[0], process(trained, **change)[0]
    assert np.abs(before.astype(int) - after).mean() > 1


def test_seed_minus_one_draws_a_seed(runtime: hackathon) -> None:
    first, second = process(runtime, seed=-1)[0], process(runtime, seed=-1)[0]
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_samples", np.int64(1)),
        ("image_resolution", np.int32(64)),
        ("ddim_steps", np.int64(20)),
        ("guess_mode", np.bool_(False)),
        ("strength", np.float32(1)),
        ("scale", np.float64(9)),
        ("seed", np.int64(5)),
        ("eta", np.float32(0)),
        ("low_threshold", np.float32(100)),
        ("high_threshold", np.int16(200)),
    ],
)
def test_numpy_numbers_are_fine(runtime: hackathon, name: str, value: Any) -> None:
    assert np.array_equal(process(runtime, **{name: value})[0], process(runtime)[0])


def test_grey_and_rgba(runtime: hackathon) -> None:
    grey = waves(64, 64)[:, :, 1]
    expected = process(runtime, input_image=np.stack([grey] * 3, axis=-1))[0]
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    for same in (grey, grey[:, :, None], opaque):
        assert np.array_equal(process(runtime, input_image=same)[0], expected)
    clear = np.dstack([grey, grey, grey, np.zeros_like(grey)])
    white = np.full((64, 64, 3), 255, np.uint8)
    assert np.array_equal(process(runtime, input_image=clear)[0], process(runtime, input_image=white)[0])


@pytest.mark.parametrize(("shape", "out"), [((40, 80), (64, 128)), ((200, 101), (128, 64))])
def test_a_picture_need_not_be_square(runtime: hackathon, shape: tuple[int, int], out: tuple[int, int]) -> None:
    assert process(runtime, input_image=waves(*shape))[0].shape == (*out, 3)


def test_a_plan_file_is_read_once(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "plan", "small_6")
    (held,) = process(runtime)
    assert len(next(reversed(runtime.pipelines.values())).shape.plan.taps) == 6
    monkeypatch.setattr("canny2image_TRT.choose_plan", None)
    assert (process(runtime)[0] == held).all()


@pytest.mark.parametrize(("steps", "message"), [(9, "for example 8 or 10"), (0, "expected 1 to 1000"), (-1, "got -1")])
def test_unusable_step_counts(runtime: hackathon, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"ddim_steps: .*{message}"):
        process(runtime, ddim_steps=steps)


def test_twelve_steps_are_thirteen(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "plan", "all")
    process(runtime)
    process(runtime, ddim_steps=12)
    pipeline = list(runtime.pipelines.values())[-1]
    decoder = Mock(wraps=pipeline.engines["decoder"])
    monkeypatch.setitem(pipeline.engines, "decoder", decoder)
    process(runtime, ddim_steps=12)
    assert decoder.enqueue.call_count == 13


def test_bad_arguments_reach_the_caller_before_any_work(runtime: hackathon) -> None:
    with pytest.raises(ValueError, match="seed: got -2, expected -1"):
        process(runtime, seed=-2)
    with pytest.raises(TypeError, match=r"seed: got -1\.0, expected a whole number"):
        process(runtime, seed=-1.0)


def test_threads_take_turns(runtime: hackathon) -> None:
    calls: list[dict[str, Any]] = [{"seed": seed, "num_samples": 2 if seed == 3 else 1} for seed in range(6)]
    expected = [process(runtime, **call) for call in calls]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda call: process(runtime, **call), calls))
    for one, other in zip(made, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_picture_is_the_caller_s(runtime: hackathon) -> None:
    mine = runtime.process(**GOOD)[0]
    copy = mine.copy()
    runtime.process(**{**GOOD, "seed": 6})
    assert np.array_equal(mine, copy), "the next call overwrote it"
    mine[:] = 0  # writable, too
    assert np.array_equal(process(runtime)[0], copy)


def test_initialize_again_starts_anew() -> None:
    runtime = hackathon("random:0", device="cpu", plan="19")
    for _ in range(2):
        runtime.initialize()
        assert [pipeline.model for pipeline in runtime.pipelines.values()] == [runtime.model]


def test_engines_that_were_asked_for_and_not_built_are_an_error() -> None:
    runtime = hackathon("random:0", backend="inductor", device="cpu", plan="19")
    with pytest.raises(
        EngineFileError, match="build them with python -m build --backend inductor --architecture small"
    ):
        runtime.initialize()


def test_auto_falls_back_to_eager_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = hackathon("random:0", device="cpu", plan="19")
    monkeypatch.setattr(runtime, "backends", ("inductor", "eager"))  # what auto looks for on a GPU
    caplog.set_level("INFO", "canny2image_TRT")
    runtime.initialize()
    assert runtime.backend.name == "eager"
    assert "backend inductor unavailable for 256x384, batch 1 (engine files " in caplog.text
    assert "backend: eager on cpu" in caplog.text


def test_sizes_without_engine_files_run_eagerly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a stand-in for the compiled engines, whose files exist for the contest's size only."""

    asked: list[Target] = []

    def find(target: Target, device: torch.device) -> Backend:
        asked.append(target)
        if (target.height, target.width, target.samples) != (256, 384, 1):
            raise EngineFileError("no such folder")
        return Backend(target.backend, compiled)

    compiled = Mock(side_effect=EagerEngine)
    monkeypatch.setattr("canny2image_TRT.find_engines", find)
    runtime = hackathon("random:0", backend="inductor", device="cpu", plan="19")
    runtime.initialize()
    assert compiled.call_count == 6
    process(runtime)
    assert (runtime.backend.name, compiled.call_count) == ("inductor", 6)
    assert "backend inductor unavailable for 64x64, batch 1 (no such folder); trying the next one" in caplog.text
    assert len(asked) == len(set(asked)) == 2, "files are read once per size"


def test_other_sizes_take_no_other_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has the form of the backend that was chosen; another would change weights under a recorded graph."""
    asked: list[tuple[str, int]] = []

    def find(target: Target, device: torch.device) -> Backend:
        asked.append((target.backend, target.height))
        if (target.backend, target.height) == ("inductor", 256):
            raise EngineFileError("no such folder")
        return Backend(target.backend, EagerEngine)

    monkeypatch.setattr("canny2image_TRT.find_engines", find)
    runtime = hackathon("random:0", device="cpu", plan="19")
    monkeypatch.setattr(runtime, "backends", ("inductor", "eager"))
    runtime.initialize()
    process(runtime)
    assert asked == [("inductor", 256), ("eager", 256), ("eager", 64)]


def test_a_log_that_keeps_its_records_keeps_no_pipeline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception holds the frames that it came through, and they what was made there: records are of words."""

    def find(target: Target, device: torch.device) -> Backend:
        if target.samples != 1:
            raise EngineFileError("no such folder")
        return Backend(target.backend, EagerEngine)

    monkeypatch.setattr("canny2image_TRT.find_engines", find)
    monkeypatch.setattr("canny2image_TRT.PIPELINES", 1)
    runtime = hackathon("random:0", backend="inductor", device="cpu", plan="19")
    runtime.initialize()
    process(runtime, num_samples=2)
    assert "backend inductor unavailable for 64x64, batch 2 (no such folder)" in caplog.text
    (evicted,) = map(weakref.ref, runtime.pipelines.values())
    process(runtime)
    assert evicted() is None


def test_few_pipelines_are_kept_the_last_used_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canny2image_TRT.PIPELINES", 2)
    runtime = hackathon("random:0", plan="19", device="cpu")
    runtime.initialize()
    first = process(runtime)[0]
    one = weakref.ref(list(runtime.pipelines.values())[-1])
    process(runtime, num_samples=2)
    assert len(runtime.pipelines) == 2, "that of initialize() has gone"
    two = weakref.ref(list(runtime.pipelines.values())[-1])
    process(runtime)
    assert list(runtime.pipelines.values())[-1] is one(), "kept, and used again"
    process(runtime, image_resolution=128)
    assert one() is not None
    assert two() is None, "the one not used longest is freed"
    assert np.array_equal(process(runtime)[0], first)


def test_other_weights_under_the_same_pipelines() -> None:
    runtime = hackathon("random:0", plan="19,4", device="cpu")
    runtime.initialize()
    calls: list[dict[str, Any]] = [{}, {"num_samples": 2, "eta": 0.5}]
    before = [process(runtime, **call) for call in calls]
    pipelines, places = list(runtime.pipelines.values()), [p.data_ptr() for p in runtime.model.parameters()]
    for weights in (str(SMALL_MODEL), "random:0"):
        runtime.load_weights(weights)
        fresh = hackathon(weights, plan="19,4", device="cpu")
        fresh.initialize()
        for call in calls:
            assert np.array_equal(process(runtime, **call), process(fresh, **call)), "bit for bit as if built with them"
    assert runtime.checkpoint.name == "random:0"
    assert np.array_equal(process(runtime, **calls[1]), before[1])
    assert set(runtime.pipelines.values()) == set(pipelines)
    assert [p.data_ptr() for p in runtime.model.parameters()] == places


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


def test_initialize_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = MagicMock()
    monkeypatch.setattr("canny2image_TRT.tqdm", shown)
    hackathon("random:0", plan="19", device="cpu").initialize()
    progress = shown.return_value.__enter__.return_value
    said = [call.args[0] for call in progress.set_description.call_args_list]
    assert said == ["reading weights", "reading engines", "drawing the first picture"]
    assert progress.update.call_count == shown.call_args.kwargs["total"] == 3


@pytest.fixture
def on_a_gpu(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> hackathon:
    """The runtime, which takes its device for a GPU when it makes pipelines."""
    monkeypatch.setattr(runtime, "device", torch.device("cuda"))
    monkeypatch.setattr(runtime, "pipelines", OrderedDict())
    return runtime


def test_what_cannot_be_captured_runs_without_a_graph(
    on_a_gpu: hackathon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("canny2image_TRT.record", Mock(side_effect=CaptureError("operation not permitted")))
    assert process(on_a_gpu)[0].std() > 1
    assert "no CUDA graph, launching kernels one by one: operation not permitted" in caplog.text
    assert on_a_gpu.graph == "no graph: operation not permitted"
    monkeypatch.setattr(on_a_gpu, "strict", True)
    with pytest.raises(CaptureError, match="operation not permitted"):
        process(on_a_gpu, num_samples=2)


@pytest.mark.parametrize(
    "error", [CudaError("graph replay differs"), torch.OutOfMemoryError("2 GiB"), RuntimeError("illegal memory access")]
)
def test_other_errors_are_no_reason_to_go_on(
    on_a_gpu: hackathon, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    monkeypatch.setattr("canny2image_TRT.record", Mock(side_effect=error))
    with pytest.raises(type(error), match=str(error)):
        process(on_a_gpu)
    assert not on_a_gpu.pipelines


def test_how_a_picture_was_made_is_said(on_a_gpu: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_gpu.graph == "no graph: nothing was drawn yet"
    assert on_a_gpu.evaluates == "nothing was drawn yet"
    graph = Mock(nodes=7017)

    def record(pipeline: Any, request: Any, tokenizer: Any) -> None:
        pipeline.graph = graph
        graph.launch.side_effect = pipeline.run

    monkeypatch.setattr("canny2image_TRT.record", record)
    process(on_a_gpu)
    assert on_a_gpu.graph == "one graph of 7017 nodes"
    assert on_a_gpu.evaluates == "2 of 20 steps"


def test_on_the_cpu_there_is_no_graph(runtime: hackathon) -> None:
    process(runtime)
    assert runtime.graph == "no graph: the CPU has none"


def test_strict_takes_no_other_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another size, though of the backend that was chosen, and files that are there and unfit."""

    def find(target: Target, device: torch.device) -> Backend:
        if target.backend == "inductor" and target.height != 256:
            raise EngineFileError("no such folder")
        return Backend(target.backend, EagerEngine)

    monkeypatch.setattr("canny2image_TRT.find_engines", find)
    runtime = hackathon("random:0", device="cpu", plan="19", strict=True)
    monkeypatch.setattr(runtime, "backends", ("inductor", "eager"))
    runtime.initialize()
    assert runtime.backend.name == "inductor"
    with pytest.raises(EngineFileError, match="no such folder"):
        process(runtime)


@pytest.mark.parametrize(("plan", "warns"), [("ten", True), ("all", False), ("12,3", False)])
def test_a_plan_for_another_number_of_steps_says_that_it_evaluates_all(
    runtime: hackathon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, plan: str, warns: bool
) -> None:
    monkeypatch.setattr(runtime, "plan", plan)
    for _ in range(2):
        process(runtime, ddim_steps=12)
    sentence = "plan ten: no such plan for 13 steps, evaluating all of them"
    assert caplog.messages.count(sentence) == int(warns), "once"
    assert runtime.evaluates == ("2 of 13 steps" if plan == "12,3" else "13 of 13 steps")


@pytest.mark.parametrize("strength", [1e5, -1e5, 65520.0])
def test_numbers_that_half_precision_cannot_hold(
    runtime: hackathon, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    assert process(runtime, strength=strength)[0].shape == (64, 64, 3), "float32 can"
    monkeypatch.setattr(runtime, "precision", PRECISIONS["fp16"])
    with pytest.raises(ValueError, match=rf"strength: got {strength:g}, expected at most 65504, .* precision fp32"):
        process(runtime, strength=strength)


def test_objects_that_start_at_once() -> None:
    """In a process of its own, in which transformers is not imported yet."""
    code = """
from concurrent.futures import ThreadPoolExecutor
from canny2image_TRT import hackathon

runtimes = [hackathon("random:0", device="cpu", plan="19") for _ in range(3)]
with ThreadPoolExecutor(6) as pool:
    for done in [pool.submit(runtime.initialize) for runtime in [*runtimes, *runtimes]]:
        done.result()
    list(pool.map(lambda runtime: runtime.timeline(), runtimes))
print("ok")
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr[-2000:]


def test_timeline_waits_for_its_turn(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is being made may put the last pipeline away."""
    process(runtime)
    with ThreadPoolExecutor(1) as pool:
        with runtime.lock:
            spans = pool.submit(runtime.timeline)
            time.sleep(0.05)
            assert not spans.done()
        assert spans.result()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype, "the caller's again"
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "state",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: torch.device("cpu"),
        lambda: default_dtype(torch.float64),
    ],
    ids=["autocast", "default device meta", "default device cpu", "default dtype"],
)
def test_the_callers_global_state_changes_nothing(runtime: hackathon, state: Any) -> None:
    expected = process(runtime)[0]
    with state():
        assert np.array_equal(process(runtime)[0], expected)
        fresh = hackathon("random:0", plan="19,4", device="cpu")
        fresh.initialize()
        assert np.array_equal(process(fresh)[0], expected)
        runtime.load_weights("random:0")
        assert runtime.timeline()
        assert np.array_equal(process(runtime)[0], expected)


def test_a_forked_child_is_told_so(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: runtime.process_id + 1)
    calls = lambda: process(runtime), runtime.initialize, runtime.timeline, lambda: runtime.load_weights("random:1")
    for call in calls:
        with pytest.raises(RuntimeError, match=r"made in another process, which was forked: .* method 'spawn'"):
            call()
