"""What `python -m build --check` tries, one small function each: it returns its figures, or raises what went wrong.

What one check leaves for those that follow is kept in the Case. Plans stay in memory, engine files are left alone.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from build.layers import Report
from build.tensorrt import Builder, make_engine, register_plugin
from build.verify import RUNS, Measurement, Trial, median_milliseconds, prepare
from cldm.checkpoint import Checkpoint, find_checkpoint
from cldm.engine_files import Target
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.one_graph import outcome, record, same
from cldm.pipeline import Pipeline, Shape
from cldm.request import Request
from cldm.tensorrt_engines import TensorRTEngines
from ldm.tokenizer import Tokenizer
from plans.plan import make_plan
from runtime.backends import PRECISIONS
from runtime.cuda import call, cudart
from runtime.graph import Graph
from runtime.sources import ROOT
from runtime.streams import Streams
from runtime.tensorrt_library import sm
from runtime.tensorrt_refit import refit
from runtime.timing import median_ms

STAGES = ("text", "hint", "control", "encoder", "decoder", "vae")
FUSED = ("text", "control", "encoder", "decoder")  # whose attentions have a fused kernel in half precision
REFITTED = "encoder"
PLUGIN = re.compile("plugin|group_?norm", re.I)  # in the kinds and names of layers
# In a process of its own: reads a plan, and knows no plugin.
READ = """
import sys, torch
from runtime.tensorrt_calls import logger_of
from runtime.tensorrt_library import library_that_reads

plan = open(sys.argv[1], "rb").read()
torch.zeros(1, device=sys.argv[2])
trt = library_that_reads("decoder", plan).load()
logger = logger_of(trt)
engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
sys.exit(None if engine else f"no engine: {logger.heard()}")
"""


class NotTried(Exception):
    """Why a check cannot be made."""


class NeedsGPU(NotTried):
    """What a check needs is a GPU that runs the plans."""


class Wrong(Exception):
    """The figures of a check that failed, and what was expected."""


@dataclass
class Case:
    """What is examined, and what the checks until now have made of it."""

    target: Target
    checkpoint: Checkpoint
    builder: Builder
    plans: dict[str, bytes] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    plugins: bool = False  # is GroupNorm's registered?

    @property
    def device(self) -> torch.device:
        return self.builder.device

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.target.precision].dtype

    @property
    def size(self) -> tuple[int, int, int]:
        return self.target.height, self.target.width, self.target.samples

    @cached_property
    def model(self) -> ControlLDM:
        """On the device, in float32 until there is a trial."""
        return self.checkpoint.load_model().to(self.device)

    @cached_property
    def exported(self) -> ControlLDM:
        return make_fast(deepcopy(self.model).cpu(), self.dtype)

    @cached_property
    def trial(self) -> Trial:
        is_slow = self.dtype == torch.float16 and self.device.type == "cpu"
        return prepare(self.model, self.dtype, self.size, self.device, eager=not is_slow)

    @cached_property
    def folder(self) -> "tempfile.TemporaryDirectory[str]":
        """Of the ONNX files, until the case goes."""
        return tempfile.TemporaryDirectory()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.load_tokenizer()

    @cached_property
    def requests(self) -> dict[str, Request]:
        return make_requests(*self.size)

    @cached_property
    def pipeline(self) -> Pipeline:
        if missing := [name for name in STAGES if name not in self.plans]:
            raise NotTried(f"there is no plan of {', '.join(missing)}")
        shape = Shape(*self.size, 20, make_plan("ten", 20))
        return Pipeline(
            make_fast(self.model, self.dtype), shape, TensorRTEngines(self.plans, self.device), Streams(self.device)
        )

    def compile(self, model: ControlLDM, stage: str, builder: Builder) -> tuple[bytes, Report]:
        ((_, plan, report),) = builder.stages(model, self.size, Path(self.folder.name), self.plugins, [stage])
        return plan, report

    @property
    def graph(self) -> Graph:
        self.need_gpu()
        if self.pipeline.graph is None:
            raise NotTried("there is no graph")
        return self.pipeline.graph

    def need_cuda(self) -> None:
        if self.device.type != "cuda":
            raise NeedsGPU(f"needs a CUDA device, and the device is {self.device}")

    def need_gpu(self) -> None:
        """One that runs the plans."""
        if not self.builder.runs:
            raise NeedsGPU(
                f"needs a GPU of {' or '.join(map(sm, self.builder.options.targets))}, and there is none here"
            )

    def need_plan(self, stage: str) -> None:
        if stage not in self.plans:
            raise NotTried("there is no plan")


def check_library(case: Case) -> str:
    library, targets = case.builder.library, case.builder.options.targets
    builds = f", builds for {', '.join(map(sm, targets))}" if targets else ""
    return f"{library.title} {library.version()}{builds}, PyTorch {torch.__version__}"


def check_driver(case: Case) -> str:
    case.need_cuda()
    module = Path("/proc/driver/nvidia/version")
    words = module.read_text().splitlines()[0] if module.exists() else "NVIDIA's kernel module does not say its version"
    return f"{words.strip()}; CUDA {call(cudart().cudaDriverGetVersion)}, PyTorch for CUDA {torch.version.cuda}"


def check_gpu(case: Case) -> str:
    case.need_cuda()
    found = torch.cuda.get_device_properties(case.device)
    return f"{found.name}, capability {found.major}.{found.minor}, {found.total_memory / 2**30:.1f} GiB"


def check_plugin(case: Case) -> str:
    if case.dtype != torch.float16 or not case.target.plugins:
        raise NotTried("only plans in half precision that are built with --plugins have it")
    register_plugin(case.builder)
    case.plugins = True
    return "registered, its kernel compiles"


def check_build(stage: str, case: Case) -> str:
    plan, report = case.compile(case.exported, stage, case.builder)
    case.plans[stage], case.reports[stage] = plan, report
    return f"{report.seconds:.1f} s, plan {len(plan) / 2**20:.1f} MiB, {len(report.layers)} layers"


def check_plan_with_plugin(case: Case) -> str:
    """A plan holds the plugin's code: a process that never registered it reads the plan too."""
    if not case.plugins:
        raise NotTried("the plugin is not registered")
    case.need_plan("decoder")
    calls = sum(bool(PLUGIN.search(f"{layer.kind} {layer.name}")) for layer in case.reports["decoder"].layers)
    with tempfile.NamedTemporaryFile(suffix=".plan") as file:
        file.write(case.plans["decoder"])
        file.flush()
        command = [sys.executable, "-c", READ, file.name, str(case.device)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"another process cannot read it: {done.stderr[-500:]}")
    if not calls:
        raise Wrong("another process reads the decoder's plan, but no layer of it is called a plugin or group_norm")
    return f"{calls} layers of the decoder's plan are calls of it, and another process reads the plan"


def check_attention(stage: str, case: Case) -> str:
    case.need_plan(stage)
    report = case.reports[stage]
    figures = f"{report.attentions('fused')} fused, {report.attentions('unfused')} unfused"
    expected = stage in FUSED and case.dtype == torch.float16
    if expected and (report.attentions("unfused") or not report.attentions("fused")):
        raise Wrong(f"{figures}; expected some, and all of them fused")
    return figures


def check_onnx(stage: str, case: Case) -> str:
    """What TensorRT was given, run by another: its errors are the file's, or the precision's."""
    case.need_plan(stage)
    if find_spec("onnxruntime") is None:
        raise NotTried("onnxruntime is not installed: run ./preprocess.sh tensorrt")
    from build.onnx_engine import OnnxEngine

    engine = OnnxEngine(case.trial.stages[stage].spec, Path(case.folder.name) / f"{stage}.onnx")
    return _within_bound(case.trial.measure(engine, timed=False))


def check_parity(stage: str, case: Case) -> str:
    case.need_plan(stage)
    case.need_gpu()
    return _within_bound(case.trial.measure(make_engine(case.trial, stage, case.plans[stage])))


def check_graph(case: Case) -> str:
    case.need_gpu()
    record(case.pipeline, case.requests["first"], case.tokenizer)
    kinds = ", ".join(f"{kind} {count}" for kind, count in case.graph.kinds.most_common())
    return f"one picture on two streams, {case.graph.nodes} nodes: {kinds}"


def check_replay(case: Case) -> str:
    """Equal to the same work enqueued, for requests that all make a difference."""
    graph, pipeline = case.graph, case.pipeline
    seen: list[Any] = []
    for name, request in case.requests.items():
        enqueued, launched = (outcome(pipeline, request, case.tokenizer, work) for work in (pipeline.run, graph.launch))
        if not same(enqueued, launched):
            raise Wrong(f"{name}: the graph draws another picture than its work enqueued one by one")
        if any(same(launched, one) for one in seen):
            raise Wrong(f"{name}: the graph draws a picture that it drew before")
        seen.append(launched)
    return f"equal bit for bit to {len(seen)} requests enqueued: {', '.join(case.requests)}"


def check_refit(case: Case) -> str:
    """A plan that was built from some weights, given others, computes what the module of those does."""
    case.need_gpu()
    built, given = (find_checkpoint(f"random:{seed}", case.target.architecture) for seed in (0, 1))
    builder = replace(case.builder, options=replace(case.builder.options, refit=True))
    plan, _ = case.compile(make_fast(built.load_model(), case.dtype), REFITTED, builder)
    model = given.load_model().to(case.device)
    trial = prepare(model, case.dtype, case.size, case.device)
    engine = make_engine(trial, REFITTED, plan)
    before = trial.measure(engine)
    refit(engine, model.state_dict())
    return f"{_within_bound(trial.measure(engine))}; with the weights of the build the error is {before.error:.1e}"


def check_process(case: Case) -> str:
    case.need_gpu()
    pipeline = case.pipeline

    def process() -> None:
        pipeline(replace(case.requests["first"]), case.tokenizer)  # its arguments are checked as those of a call are

    how = "one graph" if pipeline.graph else "kernel by kernel"
    evaluations = len(pipeline.shape.plan.evaluated)
    milliseconds = median_ms(process, RUNS, warmups=1)
    return f"{milliseconds:.2f} ms, median of {RUNS}, {how}, {evaluations} evaluations"


def check_launch(case: Case) -> str:
    graph = case.graph
    with torch.cuda.stream(graph.stream):
        return f"{median_milliseconds(graph.launch, case.device):.2f} ms on the GPU, median of {RUNS}"


CHECKS: tuple[tuple[str, Callable[[Case], str]], ...] = (
    ("library", check_library),
    ("driver", check_driver),
    ("GPU", check_gpu),
    ("plugin", check_plugin),
    *((f"build {stage}", partial(check_build, stage)) for stage in STAGES),
    ("plugin in a plan", check_plan_with_plugin),
    *((f"attention {stage}", partial(check_attention, stage)) for stage in STAGES),
    *((f"ONNX {stage}", partial(check_onnx, stage)) for stage in STAGES),
    *((f"parity {stage}", partial(check_parity, stage)) for stage in STAGES),
    ("graph", check_graph),
    ("replay", check_replay),
    ("process()", check_process),
    ("graph launch", check_launch),
    (f"refit {REFITTED}", check_refit),
)


def make_requests(height: int, width: int, samples: int) -> dict[str, Request]:
    """By what is different from the first. All of one shape."""

    def picture(seed: int) -> Any:
        fields = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        return fields.repeat(16, axis=0).repeat(16, axis=1)

    first = Request.contest(picture(0), num_samples=samples, image_resolution=min(height, width), seed=1)
    return {
        "first": first,
        "other picture": replace(first, input_image=picture(1)),
        "other prompt": replace(first, prompt="a red flower"),
        "other seed": replace(first, seed=2),
        "other scale": replace(first, scale=4.5),
        "other strength": replace(first, strength=0.5),
        "guess mode": replace(first, guess_mode=True),
        "noise of eta": replace(first, eta=0.5),
    }


def _within_bound(measurement: Measurement) -> str:
    figures = f"error {measurement.error:.1e}, bound {measurement.bound:.1e}"
    if measurement.milliseconds is not None:
        figures += f", {measurement.milliseconds:.3f} ms where eager takes {measurement.eager_milliseconds:.3f}"
    if not measurement.holds:
        raise Wrong(figures)
    return figures
