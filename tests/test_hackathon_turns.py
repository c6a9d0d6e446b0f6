"""Calls run one at a time, and neither threads, processes nor the caller's global state affect them."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from canny2image_TRT import hackathon
from cldm.pipeline import Pipeline
from cldm.request import Request
from ldm.tokenizer import Tokenizer
from tests.arguments import process

write = Pipeline.write


def test_threads_take_turns(runtime: hackathon) -> None:
    calls: list[dict[str, Any]] = [{"seed": seed, "num_samples": 2 if seed == 3 else 1} for seed in range(6)]
    expected = [process(runtime, **call) for call in calls]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda call: process(runtime, **call), calls))
    for one, other in zip(made, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_concurrent_initialization() -> None:
    """Several objects initialize concurrently, in a new process that has imported nothing lazily yet."""
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
    """A concurrent process() call may evict the last pipeline."""
    process(runtime)
    with ThreadPoolExecutor(1) as pool:
        with runtime._turns.lock:
            spans = pool.submit(runtime.timeline)
            time.sleep(0.05)
            assert not spans.done()
        assert spans.result()


@pytest.mark.parametrize("call", "process initialize load_weights set_loras timeline latent settings".split())
def test_a_call_that_interrupts_another_is_refused(
    runtime: hackathon, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "process": lambda: process(runtime, seed=7),
        "initialize": runtime.initialize,
        "load_weights": lambda: runtime.load_weights("random:1"),
        "set_loras": lambda: runtime.set_loras([]),
        "timeline": runtime.timeline,
        "latent": lambda: runtime.latent,
        "settings": lambda: runtime.settings,
    }
    expected = process(runtime)[0]
    refused: list[str] = []

    def interrupt(*_: object) -> None:
        with pytest.raises(RuntimeError, match="is already running in this thread: make no calls from a signal"):
            calls[call]()
        refused.append(call)

    def interrupted(pipeline: Pipeline, requests: Sequence[Request], tokenizer: Tokenizer) -> None:
        signal.raise_signal(signal.SIGALRM)
        write(pipeline, requests, tokenizer)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        monkeypatch.setattr(Pipeline, "write", interrupted)
        assert np.array_equal(process(runtime)[0], expected)
    finally:
        signal.signal(signal.SIGALRM, before)
    monkeypatch.undo()
    assert refused == [call]
    assert np.array_equal(process(runtime)[0], expected)


def test_the_host_process_keeps_its_threads_and_needs_no_stderr() -> None:
    code = """
import sys, threading
from canny2image_TRT import hackathon

errors, sys.stderr = sys.stderr, None
try:
    hackathon("random:0", device="cpu", plan="19").initialize()
    assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
finally:
    sys.stderr = errors
print("ok")
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr[-2000:]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype, "the caller's default dtype was not restored"
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "state",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: torch.device("cpu"),
        lambda: default_dtype(torch.float64),
        lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
    ],
    ids=["autocast", "default device meta", "default device cpu", "default dtype", "attention that no CPU has"],
)
def test_global_state_of_the_caller_has_no_effect(runtime: hackathon, state: Any) -> None:
    expected = process(runtime)[0]
    with state():
        assert np.array_equal(process(runtime)[0], expected)
        fresh = hackathon("random:0", plan="19,4", device="cpu")
        fresh.initialize()
        assert np.array_equal(process(fresh)[0], expected)
        runtime.load_weights("random:0")
        assert runtime.timeline()
        assert np.array_equal(process(runtime)[0], expected)


def test_calls_in_a_forked_child_raise(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: runtime._turns.process_id + 1)
    calls = lambda: process(runtime), runtime.initialize, runtime.timeline, lambda: runtime.load_weights("random:1")
    for call in calls:
        with pytest.raises(RuntimeError, match=r"created before this process was forked: .* method 'spawn'"):
            call()


def test_initialize_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = MagicMock()
    monkeypatch.setattr("canny2image_TRT.Progress", shown)
    hackathon("random:0", plan="19", device="cpu").initialize()
    progress = shown.return_value.__enter__.return_value
    said = [call.args[0] for call in progress.set_description.call_args_list]
    first = "generating the first picture"
    stages = [f"{first}: {stage}" for stage in ("hint", "text", "control", "encoder", "decoder", "vae")]
    assert said == ["loading weights", "loading engines", first, *stages]
    assert progress.update.call_count == shown.call_args.kwargs["total"] == 3
