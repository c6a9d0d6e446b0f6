"""Defines the checks of `python -m build --check`, in the order of CHECKS.

Each function returns the figures to report. It raises NotTried if the check cannot run, and Wrong or any other
exception if the check fails. The Case keeps the results that later checks need.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from build.case import Case, NotTried, Wrong
from build.measurement import Measurement
from build.plugin_checks import check_engine_with_plugin, check_plugin
from build.tensorrt import make_engine, prepare_trial
from build.verify import RUNS, median_milliseconds
from cldm.checkpoint_choice import find_checkpoint
from cldm.fast import make_fast
from cldm.one_graph import outcome, record, same
from cldm.stages import STAGES
from runtime.cuda import call, cudart
from runtime.tensorrt_library import sm
from runtime.tensorrt_refit import refit
from runtime.timing import median_ms

FUSED = ("text", "control", "encoder", "decoder")  # stages whose attentions have a fused kernel in half precision
REFITTED = "encoder"


def check_library(case: Case) -> str:
    library, targets = case.builder.library, case.builder.targets
    builds = f", builds for {', '.join(map(sm, targets))}" if targets else ""
    return f"{library.title} {library.version()}{builds}, PyTorch {torch.__version__}"


def check_driver(case: Case) -> str:
    case.need_cuda()
    module = Path("/proc/driver/nvidia/version")
    words = module.read_text().splitlines()[0] if module.exists() else "version of NVIDIA's kernel module unknown"
    return f"{words.strip()}; CUDA {call(cudart().cudaDriverGetVersion)}, PyTorch for CUDA {torch.version.cuda}"


def check_gpu(case: Case) -> str:
    case.need_cuda()
    found = torch.cuda.get_device_properties(case.device)
    return f"{found.name}, capability {found.major}.{found.minor}, {found.total_memory / 2**30:.1f} GiB"


def check_build(stage: str, case: Case) -> str:
    case.engines[stage], report = case.build(case.exported, stage, case.builder)
    case.reports[stage] = report
    return f"{report.seconds:.1f} s, engine {report.engine_bytes / 2**20:.1f} MiB, {len(report.layers)} layers"


def check_attention(stage: str, case: Case) -> str:
    report = case.listed(stage)
    figures = f"{report.attentions('fused')} fused, {report.attentions('unfused')} unfused"
    if stage not in FUSED or case.dtype != torch.float16:
        return figures
    trivial = single_tokens(case.onnx(stage))
    if trivial:
        figures += f", {trivial} over a single token"
    if report.attentions("unfused") > trivial or not report.attentions("fused"):
        raise Wrong(f"{figures}; expected at least one fused, and none unfused except over a single token")
    return figures


def single_tokens(path: Path) -> int:
    """Return how many Softmax nodes of an ONNX file normalize a single value; these need no fused kernel."""
    import onnx  # imported lazily: a dependency of the exporter

    graph = onnx.load(path, load_external_data=False).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    return sum(shapes[node.output[0]][-1].dim_value == 1 for node in graph.node if node.op_type == "Softmax")


def check_onnx(stage: str, case: Case) -> str:
    """Measure the ONNX file in onnxruntime: errors found here come from the file or its precision, not TensorRT."""
    case.need_engine(stage)
    if find_spec("onnxruntime") is None:
        raise NotTried(f"onnxruntime is not installed: run ./preprocess.sh {case.builder.library.extra}")
    from build.onnx_engine import OnnxEngine

    engine = OnnxEngine(case.trial.stages[stage].spec, case.onnx(stage))
    return _within_bound(case.trial.measure(engine, timed=False))


def check_parity(stage: str, case: Case) -> str:
    case.need_engine(stage)
    case.need_gpu()
    return _within_bound(case.trial.measure(make_engine(case.trial, stage, case.engines[stage])))


def check_graph(case: Case) -> str:
    case.need_gpu()
    record(case.pipeline, [case.requests["first"]], case.tokenizer)
    kinds = ", ".join(f"{kind} {count}" for kind, count in case.graph.kinds.most_common())
    return f"one picture on two streams, {case.graph.nodes} nodes: {kinds}"


def check_replay(case: Case) -> str:
    """Verify that graph replay equals eager execution for several requests, and that their pictures all differ."""
    graph, pipeline = case.graph, case.pipeline
    seen: list[Any] = []
    for name, request in case.requests.items():
        enqueued, launched = (
            outcome(pipeline, [request], case.tokenizer, work) for work in (pipeline.run, graph.launch)
        )
        if not same(enqueued, launched):
            raise Wrong(f"{name}: graph replay differs from eager execution")
        if any(same(launched, one) for one in seen):
            raise Wrong(f"{name}: graph replay gives the same picture as an earlier request")
        seen.append(launched)
    return f"equal to eager execution bit for bit for {len(seen)} requests: {', '.join(case.requests)}"


def check_refit(case: Case) -> str:
    """Replace the weights of an engine, and compare it with the module that has the new weights."""
    case.need_gpu()
    built, given = (find_checkpoint(f"random:{seed}", case.target.architecture) for seed in (0, 1))
    builder = replace(case.builder, refit=True)
    serialized, _ = case.build(make_fast(built.load_model(), case.dtype), REFITTED, builder)
    model = given.load_model()
    trial = prepare_trial(model, case.dtype, case.size, case.device)
    engine = make_engine(trial, REFITTED, serialized)
    before = trial.measure(engine)
    refit(engine, model.state_dict())
    return f"{_within_bound(trial.measure(engine))}; before the refit, the error is {before.judged:.1e}"


def check_process(case: Case) -> str:
    case.need_gpu()
    pipeline = case.pipeline

    def process() -> None:
        # replace() checks the arguments, as each process() call does.
        pipeline([replace(case.requests["first"])], case.tokenizer)

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
    ("plugin in engine", check_engine_with_plugin),
    *((f"attention {stage}", partial(check_attention, stage)) for stage in STAGES),
    *((f"ONNX {stage}", partial(check_onnx, stage)) for stage in STAGES),
    *((f"parity {stage}", partial(check_parity, stage)) for stage in STAGES),
    ("graph", check_graph),
    ("replay", check_replay),
    ("process()", check_process),
    ("graph launch", check_launch),
    (f"refit {REFITTED}", check_refit),
)


def _within_bound(measurement: Measurement) -> str:
    figures = f"error {measurement.judged:.1e}, bound {measurement.bound:.1e}"
    if measurement.milliseconds is not None:
        figures += f", {measurement.milliseconds:.3f} ms (eager: {measurement.eager_milliseconds:.3f})"
    if not measurement.holds:
        raise Wrong(figures)
    return figures
