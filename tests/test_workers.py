"""Compilation of stages in other processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from subprocess import DEVNULL, PIPE
from types import SimpleNamespace

import psutil
import pytest
import torch

import build.workers
from build.errors import BuildError
from build.workers import OF_CHECK, Result, compile_stage, compiling, processes
from cldm.compiled_files import Compiled
from cldm.engine_files import Target
from cldm.stages import STAGES
from plugins.choices import Choices
from runtime.generated_code import pack
from tests.test_inductor import ROOT, needs_compiler

CPU = torch.device("cpu")
TARGET = Target("small", 64, 64, 1, "fp32")


def settings(target: Target, stage: str, kind: str, choices: Choices) -> Result:
    """Stands in for `compile_stage`: returns what the process was told."""
    told = {name: os.environ[name] for name in os.environ if name.startswith(("TORCHINDUCTOR", "CUDA"))}
    return Result(stage, Compiled({stage: repr(told).encode()}, {}, {}), 0.5)


def failing(target: Target, stage: str, kind: str, choices: Choices) -> Result:
    raise BuildError(f"stage {stage} cannot be compiled")


def killed(target: Target, stage: str, kind: str, choices: Choices) -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def endless(target: Target, stage: str, kind: str, choices: Choices) -> Result:
    print(os.getpid(), flush=True)
    time.sleep(600)
    raise AssertionError


PARENT = """
import build.workers, tests.test_workers
from tests.test_workers import CPU, TARGET

build.workers.processes = lambda device: 1
build.workers.compile_stage = tests.test_workers.endless
if __name__ == "__main__":
    with build.workers.compiling(TARGET, CPU) as (_, results):
        list(results)
"""


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.workers, "processes", lambda device: 1)


def test_the_processes_share_a_cache_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.workers, "compile_stage", settings)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/home/cache")
    before = dict(os.environ)
    with compiling(TARGET, CPU) as (_, results):
        assert dict(os.environ) == before
        told = {result.stage: eval(result.compiled.code[result.stage]) for result in results}
    assert told.keys() == {*STAGES}
    (cache,) = {one["TORCHINDUCTOR_CACHE_DIR"] for one in told.values()}
    assert cache != "/home/cache"
    assert not os.path.exists(cache)
    assert told["vae"]["TORCHINDUCTOR_STATIC_LAUNCH_USER_DEFINED_TRITON_KERNELS"] == "1"


@pytest.mark.parametrize(
    ("work", "sentence"),
    [(failing, "stage [a-z]+ cannot be compiled"), (killed, "was killed, probably because memory ran out: free some")],
)
def test_a_failure_stops_all(
    work: Callable[[Target, str, str, Choices], Result], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.workers, "compile_stage", work)
    with pytest.raises(BuildError, match=sentence), compiling(TARGET, CPU) as (_, results):
        list(results)
    assert not active_children()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_build(kind: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=PIPE, stderr=DEVNULL, env=environment, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.send_signal(kind)
        assert parent.wait(timeout=60) != 0
        deadline = time.monotonic() + 60
        while psutil.pid_exists(child):
            assert time.monotonic() < deadline, "the process still runs"
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("cores", "memory", "gpu", "expected"),
    [(16, 128, 80, 6), (8, 128, 80, 4), (16, 12, 80, 3), (16, 128, 20, 2), (16, 128, 8, 1), (1, 2, 4, 1)],
)
def test_bounds_of_the_processes(
    cores: int, memory: int, gpu: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.workers, "_cores", lambda: cores)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": memory, "SC_PAGE_SIZE": 2**30}.__getitem__)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu * 2**30, 0))
    assert processes(torch.device("cuda")) == expected


@pytest.mark.gpu
def test_the_caller_leaves_memory_to_the_processes() -> None:
    gpu = torch.device("cuda", 0)
    room = torch.cuda.mem_get_info(gpu)[0] + torch.cuda.memory_reserved(gpu) - OF_CHECK - 2**30
    if room < OF_CHECK:
        pytest.skip("needs a GPU with more free memory")
    with build.workers._room(gpu, room):
        torch.empty(OF_CHECK // 2, dtype=torch.uint8, device=gpu)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2 * OF_CHECK, dtype=torch.uint8, device=gpu)
    torch.empty(2 * OF_CHECK, dtype=torch.uint8, device=gpu)


@pytest.mark.parametrize(
    ("free", "total", "fraction"), [(79, 80, 36 / 80), (20, 80, 14 / 80), (8, 24, 0.5), (7, 8, 1.0)]
)
def test_memory_that_the_caller_may_take(
    free: int, total: int, fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 2**30, total * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, device: fractions.append(part))
    with build.workers._room(torch.device("cuda"), 6 * 2**30):
        assert fractions == [fraction]
    assert fractions == [fraction, 1.0]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(b"Inductor's", {"a.so": b"library"}), (pack("", {}, {}), {})],
    ids=["Inductor's", "generated"],  # pack() includes the time
)
def test_code_that_runs_without_inductor_needs_no_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: bytes, expected: dict[str, bytes]
) -> None:
    monkeypatch.setattr(build.workers, "libraries", lambda cache: {"a.so": b"library"})
    result = build.workers._with_libraries(Result("hint", Compiled({"hint": code}, {}, {}), 1.0), tmp_path)
    assert result == Result("hint", Compiled({"hint": code}, {}, expected), 1.0)


@needs_compiler
def test_a_compiled_stage() -> None:
    result = compile_stage(TARGET, "hint", "cpu", {})
    assert result.stage == "hint"
    assert result.compiled.code["hint"]


def test_a_stage_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def enqueue(stream: object) -> None:
        raise RuntimeError("Failed to find a compiler\nand much more")

    engine = SimpleNamespace(bind=lambda buffers: None, enqueue=enqueue)
    monkeypatch.setattr(build.workers, "InductorEngine", lambda spec, module: engine)
    with pytest.raises(BuildError, match=r"stage text cannot be compiled \(RuntimeError: Failed to find a compiler\)$"):
        compile_stage(TARGET, "text", "cpu", {})
