"""load_weights() and set_loras() change everything or nothing, and loaded weights do not depend on their files."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL, Checkpoint
from cldm.pipeline_cache import Pipelines
from ldm.weights import CheckpointError
from tests.arguments import Picture, process
from tests.inside import pipelines_of
from tests.test_hackathon_loras import write_lora

ROOT = Path(__file__).resolve().parent.parent
Change = Callable[[hackathon], None]


@pytest.fixture(scope="module")
def running() -> hackathon:
    made = hackathon(str(SMALL_MODEL), plan="19", device="cpu")
    made.initialize()
    return made


@pytest.fixture(scope="module")
def before(running: hackathon) -> tuple[tuple[Any, ...], Picture]:
    """Return the state of `running`, which no test changes, and its picture."""
    return state(running), process(running)[0]


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Change]:
    lora = write_lora(tmp_path_factory.mktemp("lora") / "all.safetensors", 1, "")
    return {
        "load_weights": lambda runtime: runtime.load_weights("random:1", loras=[(lora, 1.0)]),
        "set_loras": lambda runtime: runtime.set_loras([(lora, 1.0)]),
    }


def state(runtime: hackathon) -> tuple[Any, ...]:
    """Return what a call may not change if it fails."""
    weights, model = runtime._weights, pipelines_of(runtime).model
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return values, runtime.checkpoint, weights.patches, weights.stamps, pipelines_of(runtime).tokenizer


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(torch.equal(one[0][name], other[0][name]) for name in one[0]) and one[1:] == other[1:]


STEPS = {
    "cldm.checkpoint.Checkpoint.load_model": ("load_weights", "set_loras"),
    "cldm.checkpoint.Checkpoint.load_tokenizer": ("load_weights",),
    "cldm.checkpoint.Checkpoint.patches": ("load_weights", "set_loras"),
    "cldm.checkpoint.Checkpoint.stamps": ("load_weights", "set_loras"),
    "cldm.loaded_weights.merged": ("load_weights", "set_loras"),
    "cldm.pipeline_cache.Pipelines.laid_out": ("load_weights", "set_loras"),
    "cldm.loaded_weights.LoadedWeights._refitted": ("load_weights", "set_loras"),
}


ALLOCATING = ("load_model", "merged", "laid_out", "_refitted")  # steps that can run out of memory
FAILURES = [
    (step, call, error)
    for step, calls in STEPS.items()
    for call in calls
    for error in (CheckpointError("damaged"), torch.OutOfMemoryError("no"), KeyboardInterrupt())
    if step.endswith(ALLOCATING) or not isinstance(error, torch.OutOfMemoryError)
]


@pytest.mark.parametrize(("step", "call", "error"), FAILURES)
def test_a_failure_before_the_change_changes_nothing(
    running: hackathon,
    before: tuple[tuple[Any, ...], Picture],
    changes: dict[str, Change],
    step: str,
    call: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running._weights.host = None  # so that set_loras() reads the checkpoint again

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(step, fail)
    with pytest.raises(type(error)):
        changes[call](running)
    monkeypatch.undo()
    assert same(state(running), before[0])
    assert np.array_equal(process(running)[0], before[1])


@pytest.mark.parametrize("call", ["load_weights", "set_loras"])
def test_a_change_that_stops_halfway_is_not_used(
    changes: dict[str, Change], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = hackathon(str(SMALL_MODEL), plan="19", device="cpu")
    runtime.initialize()
    expected = process(runtime)[0]

    def half(self: Pipelines, values: Mapping[str, Tensor]) -> None:
        self.model.copy_weights(dict([*values.items()][: len(values) // 2]))
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipelines, "load", half)
    with pytest.raises(KeyboardInterrupt):
        changes[call](runtime)
    monkeypatch.undo()
    for one in (process, changes["set_loras"], changes["load_weights"]):
        with pytest.raises(RuntimeError, match=r"a mix of old and new: call initialize\(\) again"):
            one(runtime)
    runtime.initialize()
    assert np.array_equal(process(runtime)[0], expected), "the weights in use before"
    changes[call](runtime)
    assert not np.array_equal(process(runtime)[0], expected)


CHANGED_FILES = """
import os, sys
import numpy as np
from canny2image_TRT import hackathon
from tests.arguments import process

lora, *files = sys.argv[1:]
for path in files:
    runtime = hackathon(path, plan="19", device="cpu", loras=[(lora, 1.0)])
    runtime.initialize()
    expected = process(runtime)[0]
    runtime.set_loras([])
    plain = process(runtime)[0]
    size = os.path.getsize(path)
    with open(path, "r+b") as file:  # the same file, not a new one of the same name
        file.write(b"U" * size)
    assert np.array_equal(process(runtime)[0], plain), path
    os.truncate(path, 100)
    assert np.array_equal(process(runtime)[0], plain), path
    runtime.set_loras([(lora, 1.0)])
    assert np.array_equal(process(runtime)[0], expected), path
"""


def test_files_may_change_once_they_are_loaded(tmp_path: Path) -> None:
    """In a process of its own, because reading a mapped file that was truncated ends a process with SIGBUS."""
    files = [tmp_path / "model.safetensors", tmp_path / "model.pth"]
    shutil.copy(SMALL_MODEL, files[0])
    torch.save(safetensors.torch.load_file(SMALL_MODEL), files[1])
    lora = write_lora(tmp_path / "lora.safetensors", 1, "attn")
    code = [sys.executable, "-c", CHANGED_FILES, lora, *map(str, files)]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])


def test_weights_that_are_replaced_while_initialize_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """initialize() makes new pipelines while load_weights() reads: the new ones get the new weights."""
    fresh = hackathon("random:1", plan="19", device="cpu")
    fresh.initialize()
    runtime = hackathon("random:0", plan="19", device="cpu")
    runtime.initialize()
    load = Checkpoint.load_tokenizer

    def meanwhile(self: Checkpoint) -> Any:
        if self.name == "random:1":
            monkeypatch.undo()
            runtime.initialize()
        return load(self)

    monkeypatch.setattr(Checkpoint, "load_tokenizer", meanwhile)
    runtime.load_weights("random:1")
    assert runtime.checkpoint.name == "random:1"
    assert np.array_equal(process(runtime)[0], process(fresh)[0])


def test_a_call_that_waited_for_an_interrupted_change_is_refused() -> None:
    runtime = hackathon("random:0", plan="19", device="cpu")
    runtime.initialize()
    with ThreadPoolExecutor(1) as pool:
        with runtime._turns.lock:
            waiting = pool.submit(process, runtime)
            time.sleep(0.2)
            runtime._weights.mixed = True
        with pytest.raises(RuntimeError, match="a mix of old and new"):
            waiting.result()
    for name in ("settings", "latent", "graph"):
        with pytest.raises(RuntimeError, match="a mix of old and new"):
            getattr(runtime, name)


def test_a_namesake_of_equal_size_and_time_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "model.safetensors", tmp_path / "other.safetensors"
    for file in (path, other):
        shutil.copy(SMALL_MODEL, file)
        os.utime(file, ns=(10**18, 10**18))
    before = Checkpoint(str(path), "small", "given").stamps()
    os.replace(other, path)
    assert Checkpoint(str(path), "small", "given").stamps() != before
