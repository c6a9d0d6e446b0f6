"""python -m benchmarks.startup: where the time goes from the start of the process to the end of `initialize()`.

Run it with empty caches (TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR and CUDA_CACHE_PATH name new folders) to see what a
machine does that has compiled nothing. The engine files must exist. Steps of different threads run at the same time;
the time of a step includes the indented steps below it. The last line counts the modules that Python compiled, because
their bytecode was missing: with it, as pip installs packages, the import of Inductor took 3.4 s on a CPU, without 11.5.
"""

import argparse
import logging
import os
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Functions, where their callers look them up. A text in braces is formatted with the arguments.
STEPS = {
    "cldm.checkpoint.Checkpoint.checked_tokenizer": "tokenizer",
    "cldm.loaded_weights.LoadedWeights.load": "weights",
    "cldm.checkpoint.random_model": "random weights, in host memory",
    "cldm.checkpoint.check_finite": "check of the weights (waits for the copy to the device)",
    "cldm.engine_files.expected_manifest": "expected manifest",
    "cldm.engine_files.read_stages": "engine files: read and checked",
    "cldm.compiled_files.install": "engine files: libraries written into the cache",
    "cldm.compiled_files.load_code": "engine files: code of a stage",
    "cldm.start._compiled_form": "layers in their compiled form",
    "cldm.pipeline_cache.Pipeline": "pipeline",
    "cldm.pipeline_cache.record": "graph, with its check",
    "cldm.one_graph.outcome": "picture with two seeds, eagerly or by the graph",
    "cldm.one_graph.Graph": "capture",
    "runtime.inductor.InductorEngine.enqueue": "first run of {0.spec.name}",
    "cldm.pipeline_cache.Pipelines.draw": "pipeline, graph and first picture",
}


@dataclass
class Step:
    name: str
    depth: int
    start: float
    end: float = 0.0


@dataclass
class Recorder:
    """Records the calls of functions, per thread. Only the first call counts of steps whose name has braces."""

    steps: dict[str, list[Step]] = field(default_factory=dict)  # by thread
    depths: dict[str, int] = field(default_factory=dict)
    compiled: list[float] = field(default_factory=list)  # seconds per module that Python compiled

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        thread = threading.current_thread().name
        step = Step(name, self.depths.get(thread, 0), since_start())
        self.steps.setdefault(thread, []).append(step)
        self.depths[thread] = step.depth + 1
        try:
            yield
        finally:
            self.depths[thread] = step.depth
            step.end = since_start()

    def recorded(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            name = label.format(*arguments) if "{" in label else label
            if "{" in label and any(step.name == name for steps in self.steps.values() for step in steps):
                return function(*arguments, **named)
            with self.step(name):
                return function(*arguments, **named)

        return call

    def timed(self, compile_module: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            code = compile_module(*arguments, **named)
            self.compiled.append(time.perf_counter() - start)
            return code

        return call

    def table(self) -> str:
        lines = ["| thread | step | start, s | time, s |", "|---|---|---:|---:|"]
        for thread, steps in self.steps.items():
            for step in steps:
                indent = "&nbsp;&nbsp;" * step.depth
                lines.append(f"| {thread} | {indent}{step.name} | {step.start:.2f} | {step.end - step.start:.2f} |")
        lines.append(f"\nPython compiled {len(self.compiled)} modules in {sum(self.compiled):.1f} s")
        return "\n".join(lines)


def since_start() -> float:
    """Return the seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--architecture", default="small", help="default: small")
    add("--backend", default="inductor", help="default: inductor")
    add("--weights", default="random:0", help="default: random:0, with which weights are generated, not read")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recorder = Recorder()
    with ExitStack() as stack:
        source_to_code = recorder.timed(SourceFileLoader.source_to_code)
        stack.enter_context(patch.object(SourceFileLoader, "source_to_code", source_to_code))
        with recorder.step("import of PyTorch"):
            import torch  # noqa: F401
        with recorder.step("import of this project"):
            from canny2image_TRT import hackathon
        for name, label in STEPS.items():
            stack.enter_context(patch(name, recorder.recorded(pkgutil.resolve_name(name), label)))
        with recorder.step("constructor"):
            runtime = hackathon(options.weights, architecture=options.architecture, backend=options.backend)
        with recorder.step("initialize()"):
            runtime.initialize()
    print(recorder.table())


if __name__ == "__main__":
    main()
