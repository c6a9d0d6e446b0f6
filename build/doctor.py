"""`python -m build --check`: tries here all that TensorRT has to do, and writes a report to attach to an issue.

Checks are small functions in a list: each returns its figures, or raises NotTried or whatever went wrong. What one
leaves for those that follow lies in the Case. Plans stay in memory, engine files are left alone.
"""

import json
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from build.compile import CompileOptions, Report
from build.tensorrt import compile_stages, make_engine, register_plugin
from build.verify import RUNS, BuildError, Measurement, Trial, median_milliseconds, prepare
from cldm.checkpoint import Checkpoint, find_checkpoint
from cldm.engine_files import ROOT, Plans, Target, expected_manifest
from cldm.model import ControlLDM
from cldm.pipeline import Pipeline, Shape, to_precision
from cldm.plan import make_plan
from cldm.record import outcome, record, same
from cldm.request import Request
from ldm.tokenizer import Tokenizer
from runtime.artifacts import package_version
from runtime.backends import PRECISIONS
from runtime.cuda import CudaError, call, cudart
from runtime.graph import Graph
from runtime.lanes import Lanes
from runtime.tensorrt import check_device
from runtime.tensorrt_library import TensorRTError, heard_log, library, on
from runtime.tensorrt_refit import refit
from runtime.timing import median_ms

REPORT = Path("tensorrt_check.json")
STAGES = ("text", "hint", "control", "encoder", "decoder", "vae")
FUSED = ("control", "encoder", "decoder")  # their attentions run at every step: all have to be fused
REFITTED = "encoder"
PLUGIN = re.compile("plugin|group_?norm", re.I)  # in the kinds and names of layers
# In a process of its own: reads a plan, and knows no plugin.
READ = """
import sys, torch
from runtime.tensorrt_library import library, make_logger

torch.zeros(1, device=sys.argv[2])
logger = make_logger()
engine = library().Runtime(logger).deserialize_cuda_engine(open(sys.argv[1], "rb").read())
sys.exit(None if engine else f"no engine: {logger.heard()}")
"""
LINES = 100  # of TensorRT's logger, per check
PACKAGES = "tensorrt-cu13 tensorrt torch triton onnx onnxscript onnx-ir cuda-bindings numpy".split()


class NotTried(Exception):
    """Why a check cannot be made."""


class Wrong(Exception):
    """The figures of a check that failed, and what was expected."""


@dataclass(frozen=True)
class Finding:
    """What became of one check."""

    check: str
    result: Literal["ok", "FAILED", "not tried"]
    figures: str  # or the reason
    traceback: str  # of an error that nobody expects
    tensorrt: tuple[str, ...]  # warnings and errors that its logger was given


@dataclass
class Case:
    """What is examined, and what the checks until now have made of it."""

    target: Target
    checkpoint: Checkpoint
    device: torch.device
    plans: dict[str, bytes] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    plugins: bool = False  # is GroupNorm's registered?

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
        return to_precision(deepcopy(self.model).cpu(), self.dtype)

    @cached_property
    def trial(self) -> Trial:
        return prepare(self.model, self.dtype, self.size, self.device)

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
        return Pipeline(to_precision(self.model, self.dtype), shape, Plans(self.plans, self.device), Lanes(self.device))

    def compile(self, model: ControlLDM, stage: str, options: CompileOptions) -> tuple[bytes, Report]:
        with tempfile.TemporaryDirectory() as folder:
            where = self.device, options, Path(folder)
            ((_, plan, report),) = compile_stages(model, self.size, *where, self.plugins, [stage])
        return plan, report

    @property
    def graph(self) -> Graph:
        self.need_cuda()
        if self.pipeline.graph is None:
            raise NotTried("there is no graph")
        return self.pipeline.graph

    def need_cuda(self) -> None:
        if self.device.type != "cuda":
            raise NotTried(f"needs a CUDA device, and the device is {self.device}")

    def need_plan(self, stage: str) -> None:
        if stage not in self.plans:
            raise NotTried("there is no plan")


def check_library(case: Case) -> str:
    return f"TensorRT {library().__version__}, PyTorch {torch.__version__}"


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
    if case.dtype != torch.float16 or case.target.plugins is False:
        raise NotTried("plans in float32, and those that are built with --no-plugins, have none")
    register_plugin(case.device)
    case.plugins = True
    return "registered, its kernel compiles"


def check_build(stage: str, case: Case) -> str:
    plan, report = case.compile(case.exported, stage, CompileOptions())
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
    if stage in FUSED and (report.attentions("unfused") or not report.attentions("fused")):
        raise Wrong(f"{figures}; expected some, and all of them fused")
    return figures


def check_parity(stage: str, case: Case) -> str:
    case.need_plan(stage)
    return _within_bound(case.trial.measure(make_engine(case.trial, stage, case.plans[stage])))


def check_graph(case: Case) -> str:
    case.need_cuda()
    record(case.pipeline, case.requests["first"], case.tokenizer)
    kinds = ", ".join(f"{kind} {count}" for kind, count in case.graph.kinds.most_common())
    return f"one picture on two streams, {case.graph.nodes} nodes: {kinds}"


def check_replay(case: Case) -> str:
    """Equal to the same work enqueued, for requests that all make a difference."""
    pipeline, graph = case.pipeline, case.graph
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
    built, given = (find_checkpoint(f"random:{seed}", case.target.architecture) for seed in (0, 1))
    plan, _ = case.compile(to_precision(built.load_model(), case.dtype), REFITTED, CompileOptions(refit=True))
    model = given.load_model().to(case.device)
    trial = prepare(model, case.dtype, case.size, case.device)
    engine = make_engine(trial, REFITTED, plan)
    before = trial.measure(engine)
    refit(engine, model.state_dict())
    return f"{_within_bound(trial.measure(engine))}; with the weights of the build the error is {before.error:.1e}"


def check_process(case: Case) -> str:
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
    *((f"parity {stage}", partial(check_parity, stage)) for stage in STAGES),
    ("graph", check_graph),
    ("replay", check_replay),
    ("process()", check_process),
    ("graph launch", check_launch),
    (f"refit {REFITTED}", check_refit),
)


def missing(device: torch.device) -> list[str]:
    """One sentence for each thing that the checks need and that is not here: what, and how to get it."""
    sentences = []
    try:
        if not hasattr(library(), "Builder"):
            sentences.append("only tensorrt_lean is installed, which builds no plans: run ./preprocess.sh tensorrt")
    except TensorRTError as error:
        sentences.append(f"{error}; ./preprocess.sh tensorrt installs it")
    try:
        check_device(device)
    except TensorRTError as error:
        sentences.append(f"{error}, or check a machine that has an NVIDIA GPU, its driver and PyTorch for CUDA")
    if lacking := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        sentences.append(f"the ONNX exporter needs {' and '.join(lacking)}: run ./preprocess.sh tensorrt")
    return sentences


def examine(case: Case) -> bool:
    """Make all checks, print a line for each, and write the report. Did none fail?"""
    report, findings = _circumstances(case), []
    with on(case.device):
        for name, check in CHECKS:
            findings.append(_make(name, partial(check, case)))
            print(f"{name:18s} {findings[-1].result:10s} {findings[-1].figures}", flush=True)
    report["checks"] = [asdict(one) for one in findings]
    report["layers"] = {name: [layer.name for layer in one.layers] for name, one in case.reports.items()}
    REPORT.write_text(anonymous(json.dumps(report, indent=2)))
    print(f"the report is {REPORT.absolute()}: please attach it to an issue if a check failed")
    return all(one.result != "FAILED" for one in findings)


def anonymous(text: str) -> str:
    """The text without the places where things lie here, and without the user's name in others."""
    home = os.path.expanduser("~")
    places = {"<project>": str(ROOT), "<here>": os.getcwd(), "<temporary>": tempfile.gettempdir(), "~": home}
    for name, place in sorted(places.items(), key=lambda item: -len(item[1])):  # one may lie in another
        if len(place) > 1:  # not the root of all
            text = re.sub(rf"{re.escape(place)}(?![\w.-])", name, text)
    user = os.path.basename(home)
    return re.sub(rf"/{re.escape(user)}(?![\w.-])", "/<user>", text) if user else text


def make_requests(height: int, width: int, samples: int) -> dict[str, Request]:
    """By what is different from the first. All of one shape."""

    def picture(seed: int) -> Any:
        fields = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        return fields.repeat(16, axis=0).repeat(16, axis=1)

    first = Request(
        picture(0), "a bird", "best quality", "lowres", samples, min(height, width), 20, False, 1.0, 9.0, 1, 0.0,
        100, 200,
    )  # fmt: skip
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


def _make(name: str, check: Callable[[], str]) -> Finding:
    trace = ""
    result: Literal["ok", "FAILED", "not tried"] = "FAILED"
    with _listening() as heard:
        try:
            figures, result = check(), "ok"
        except NotTried as reason:
            figures, result = str(reason), "not tried"
        except (Wrong, BuildError, TensorRTError, CudaError) as error:
            figures = str(error)
        except Exception as error:  # a doctor goes on whatever is wrong
            figures, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    return Finding(name, result, " ".join(figures.split()), trace, tuple(heard[-LINES:]))


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What TensorRT warns of meanwhile, and its errors."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage().strip())

    handler, level, propagate = Collector(), heard_log.level, heard_log.propagate
    heard_log.addHandler(handler)
    heard_log.setLevel(logging.DEBUG)
    heard_log.propagate = False  # into the report, not between the lines that are printed
    try:
        yield lines
    finally:
        heard_log.removeHandler(handler)
        heard_log.setLevel(level)
        heard_log.propagate = propagate


def _circumstances(case: Case) -> dict[str, Any]:
    """What the findings depend on, of which nothing says whose machine it is."""
    return {
        "made": time.strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
        "platform": platform.platform(),
        "weights": Path(case.checkpoint.name).name,
        "manifest": {**asdict(expected_manifest(case.target, case.device)), "checkpoint": ""},
    }
