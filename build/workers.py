"""Compiles the stages side by side, each in one of several processes, while the caller prepares their check.

The processes share a temporary cache, so that engine files get all shared libraries that were compiled, and no others.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

import torch

from build.choices import choose, has_choices
from build.empty_stage import empty_stage
from build.errors import BuildError, first_line
from cldm.compiled_files import Compiled
from cldm.engine_files import Target
from cldm.stages import STAGES
from plugins.choices import CHOICES, Choices
from plugins.machine_code import KERNELS
from runtime.compiled_code import libraries
from runtime.generated_code import is_packed
from runtime.inductor import InductorEngine
from runtime.spec import allocate

MEMORY = 4 * 2**30  # bytes of host memory per process, with the processes that compile its kernels
GPU_MEMORY = 3 * 2**30  # bytes per process: the weights of a stage and the CUDA context
OF_CHECK = 12 * 2**30  # bytes of GPU memory that the caller's check takes: twice the weights in float32
LATER_FIRST = STAGES[::-1]  # the later stages take longer to compile


@dataclass(frozen=True)
class Result:
    """The code of a stage, and the seconds that its compilation took."""

    stage: str
    compiled: Compiled
    seconds: float


@contextmanager
def compiling(target: Target, device: torch.device) -> Iterator[tuple[Choices, Iterator[Result]]]:
    """Start to compile all stages. Yield the choices, and an iterator over the results, as they become ready.

    It raises BuildError if a stage cannot be compiled. At the end of the block, unfinished work is stopped.
    """
    with tempfile.TemporaryDirectory() as cache:
        count = processes(device)
        pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_depend_on_parent)
        try:
            with _environment(_settings(cache, count)):  # the processes inherit it
                choices = pool.submit(choose, target).result() if has_choices(target, device) else {}
                futures = [pool.submit(compile_stage, target, one, device.type, choices) for one in LATER_FIRST]
            with _room(device, count * GPU_MEMORY):
                yield choices, (_with_libraries(future.result(), Path(cache)) for future in as_completed(futures))
        except BrokenProcessPool as error:
            raise BuildError(
                "a process that compiles engines was killed, probably because memory ran out: free some memory"
            ) from error
        except BaseException:
            for child in active_children():
                child.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def processes(device: torch.device) -> int:
    """Return how many stages to compile at once: bounded by cores, memory and, for a GPU, its free memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    bounds = [len(STAGES), _cores() // 2, memory // MEMORY]
    if device.type == "cuda":
        bounds.append((torch.cuda.mem_get_info(device)[0] - OF_CHECK) // GPU_MEMORY)
    return max(1, min(bounds))


@contextmanager
def _room(device: torch.device, size: int) -> Iterator[None]:
    """Leave `size` bytes of GPU memory to other processes: cuDNN's float32 convolutions take all that they can get."""
    if device.type != "cuda":
        yield
        return
    free, total = torch.cuda.mem_get_info(device)
    mine = min(free + torch.cuda.memory_reserved(device) - size, 3 * OF_CHECK)  # other builds may run too
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(mine, OF_CHECK) / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def compile_stage(target: Target, name: str, kind: str, choices: Choices) -> Result:
    """Compile a stage for a device of this kind. Raise BuildError if that fails."""
    start = time.perf_counter()
    KERNELS.clear()  # those of other stages
    CHOICES.update(choices)
    try:
        stage = empty_stage(target, name, torch.device(kind))
        engine = InductorEngine(stage.spec, stage.module)
        engine.bind(allocate({name: stage.spec}, torch.device(kind)))
        engine.enqueue(None)  # also compiles the kernels of our ops
        compiled = Compiled({name: engine.save()}, dict(KERNELS), {})
    except RuntimeError as error:  # base class of all errors of Inductor
        raise BuildError(f"stage {name} cannot be compiled ({type(error).__name__}: {first_line(error)})") from error
    return Result(name, compiled, time.perf_counter() - start)


def _with_libraries(result: Result, cache: Path) -> Result:
    compiled = result.compiled
    if all(map(is_packed, compiled.code.values())):
        return result  # such code needs none, and writing them into the cache would import PyTorch's compiler
    return Result(result.stage, Compiled(compiled.code, compiled.kernel, libraries(cache)), result.seconds)


def _settings(cache: str, count: int) -> dict[str, str]:
    return {
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "TORCHINDUCTOR_COMPILE_THREADS": str(max(1, 2 * _cores() // count)),
        # With Triton's own launcher, gcc would run wherever engine files are loaded.
        "TORCHINDUCTOR_STATIC_LAUNCH_USER_DEFINED_TRITON_KERNELS": "1",
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _depend_on_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and end with it, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent, "this process was started by another"
    parent.join()
    os._exit(1)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
