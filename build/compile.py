"""From an ONNX file to a TensorRT plan, and what the plan turned out to be.

Has not run on TensorRT itself yet: what stands in for that proof are `tests/standin` and the real bindings' names.
"""

import json
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from tqdm import tqdm

from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine, check_device, check_tensors, describe, layout
from runtime.tensorrt_library import TensorRTError, checked, make, make_logger, on

if TYPE_CHECKING:
    import tensorrt as trt
else:
    from runtime.tensorrt_library import trt

log = logging.getLogger(__name__)

# How the compiler inside TensorRT names its fused attention kernels, such as _gemm_mha_v2_myl0_4. Names of layers may
# also repeat those of ONNX nodes, so there the whole stem is asked for.
FUSED, FUSED_NAME = re.compile("mha|attention", re.I), re.compile("_ge(mm|mv)_mha")
UNFUSED = re.compile("softmax|MaxSubExpSum", re.I)


@dataclass(frozen=True)
class CompileOptions:
    optimization_level: int = 3  # 0 (builds fastest) to 5 (tries most kernels)
    workspace_bytes: int = 4 << 30  # that a kernel may at most ask for
    timing_cache: Path | None = None  # times of kernels, for later builds; of one GPU and one version of TensorRT
    refit: bool = False  # leave the weights open, for runtime.tensorrt_refit; kernels may be slower


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    formats: tuple[str, ...]  # type and layout of each output, in TensorRT's words
    attention: Literal["fused", "unfused", "none"]  # unfused: it computes the softmax of one


@dataclass(frozen=True)
class Report:
    """What EngineInspector says of a plan."""

    engine: str
    seconds: float  # that the build took
    plan_bytes: int
    scratch_bytes: int
    layers: tuple[Layer, ...]

    def attentions(self, state: Literal["fused", "unfused"]) -> int:
        return sum(layer.attention == state for layer in self.layers)

    @property
    def formats(self) -> Counter[str]:
        """Number of layer outputs by format."""
        return Counter(one for layer in self.layers for one in layer.formats)


def compile_plan(
    onnx: Path, spec: EngineSpec, device: torch.device, options: CompileOptions | None = None
) -> tuple[bytes, Report]:
    """The plan of an ONNX file with static shapes whose inputs and outputs are those of `spec`, and its report.

    Strongly typed: precision is what the file says. Takes minutes for a UNet.
    Raises TensorRTError with the reason, KeyboardInterrupt once TensorRT has stopped.
    """
    check_device(device)
    if not hasattr(trt, "Builder"):
        raise TensorRTError("only tensorrt_lean is installed, which builds no plans: install tensorrt-cu13")
    start = time.perf_counter()
    with on(device):
        plan = _build(onnx, spec, options or CompileOptions())
    seconds = time.perf_counter() - start
    return plan, inspect(TensorRTEngine(spec, plan, device), len(plan), seconds)


def inspect(engine: TensorRTEngine, plan_bytes: int, seconds: float) -> Report:
    """The report of an engine that was built with detailed profiling verbosity. Raises TensorRTError otherwise."""
    name, logger = engine.spec.name, engine.logger
    inspector = checked(engine.engine.create_engine_inspector(), f"engine {name} cannot be inspected", logger)
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = tuple(_layer(one) for one in json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TensorRTError(
            f"engine {name}: EngineInspector's text has no detailed layers ({type(error).__name__}); build it again",
            logger.heard(),
        ) from error
    return Report(name, seconds, plan_bytes, engine.scratch_bytes, layers)


def table(reports: Iterable[Report]) -> str:
    """One line per engine, to be printed."""
    lines = ["engine    build s   plan MiB   scratch MiB   layers   attentions fused   unfused   output formats"]
    for one in reports:
        formats = ", ".join(f"{name} {count}" for name, count in one.formats.most_common())
        lines.append(
            f"{one.engine:8s} {one.seconds:8.1f} {one.plan_bytes / 2**20:10.1f} {one.scratch_bytes / 2**20:13.1f} "
            f"{len(one.layers):8d} {one.attentions('fused'):18d} {one.attentions('unfused'):9d}   {formats}"
        )
    return "\n".join(lines)


def _build(onnx: Path, spec: EngineSpec, options: CompileOptions) -> bytes:
    """Network, parser and configuration stay referenced here until the plan is made: they share memory."""
    logger = make_logger()
    builder = make(lambda: trt.Builder(logger), "Builder", logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = checked(builder.create_network(flags), f"engine {spec.name}: TensorRT makes no network", logger)
    parser = make(lambda: trt.OnnxParser(network, logger), "OnnxParser", logger)
    if not parser.parse_from_file(str(onnx)):
        raise TensorRTError(f"engine {spec.name}: {onnx} cannot be parsed: {_parser_errors(parser)}", logger.heard())
    _set_formats(network, spec)
    config = checked(builder.create_builder_config(), f"engine {spec.name}: TensorRT makes no configuration", logger)
    _configure(config, options)
    _load_timing_cache(config, options.timing_cache, logger)
    with tqdm(desc=f"building {spec.name}", unit="step") as progress:
        monitor = make_monitor(progress)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if plan is None and monitor.interrupted:
        raise KeyboardInterrupt
    data = bytes(checked(plan, f"engine {spec.name}: {onnx} cannot be built", logger))
    _save_timing_cache(config, options.timing_cache, logger)
    return data


def _parser_errors(parser: "trt.OnnxParser") -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(f"node {error.node()} {error.node_name()!r}: {error.desc()}" for error in errors)


def _set_formats(network: "trt.INetworkDefinition", spec: EngineSpec) -> None:
    """Let the plan read and write buffers as they lie. Raises TensorRTError if the file has other tensors."""
    layouts = {one.name: layout(one) for one in (*spec.inputs, *spec.outputs)}
    tensors = {"INPUT": [network.get_input(i) for i in range(network.num_inputs)]}
    tensors["OUTPUT"] = [network.get_output(i) for i in range(network.num_outputs)]
    found = {
        tensor.name: describe(mode, tensor.dtype.name, tensor.shape, layouts.get(tensor.name, "LINEAR"))
        for mode, all_of_mode in tensors.items()
        for tensor in all_of_mode
    }
    check_tensors(spec, found)
    for tensor in (*tensors["INPUT"], *tensors["OUTPUT"]):
        tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, layouts[tensor.name]))


def _configure(config: "trt.IBuilderConfig", options: CompileOptions) -> None:
    config.builder_optimization_level = options.optimization_level
    config.max_aux_streams = 0  # the caller has streams of its own, and a CUDA graph stays simple
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is to be exact, as in the other backends
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)


def _load_timing_cache(config: "trt.IBuilderConfig", path: Path | None, logger: Any) -> None:
    """Use the file's times, or an empty cache if there is no file or it is of another GPU or version."""
    if path is None:
        return
    if path.exists():
        old = config.create_timing_cache(path.read_bytes())
        if old is not None and config.set_timing_cache(old, ignore_mismatch=False):
            return
        log.info("timing cache %s is of another GPU or TensorRT, so it is replaced (%s)", path, logger.heard())
    sentence = f"timing cache {path} cannot be begun"
    new = checked(config.create_timing_cache(b""), sentence, logger)
    checked(config.set_timing_cache(new, ignore_mismatch=False), sentence, logger)


def _save_timing_cache(config: "trt.IBuilderConfig", path: Path | None, logger: Any) -> None:
    if path is None:
        return
    sentence = f"timing cache {path} cannot be saved"
    cache = checked(config.get_timing_cache(), sentence, logger)
    data = checked(cache.serialize(), sentence, logger)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def make_monitor(progress: "tqdm[Any]") -> Any:
    """An IProgressMonitor that moves the bar by one step of whatever phase, from several threads.

    Phases lie in one another and are announced as they begin, so the total grows. No exception may leave a method,
    the caller is C++: an interrupt is noted in `interrupted`, and stops the build at the next step.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self.missing: dict[str, int] = {}  # steps, by phase
            self.lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                with self.lock:
                    self.missing[phase_name] = num_steps
                    progress.total = (progress.total or 0) + num_steps
                    progress.set_postfix_str(phase_name)
            except KeyboardInterrupt:
                self.interrupted = True

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                with self.lock:
                    self.missing[phase_name] = self.missing.get(phase_name, 1) - 1
                    progress.update()
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            try:
                with self.lock:
                    progress.update(self.missing.pop(phase_name, 0))  # steps that TensorRT left out
            except KeyboardInterrupt:
                self.interrupted = True

    return Monitor()


def _layer(information: dict[str, Any]) -> Layer:
    name, kind, tactic, origin = (
        str(information.get(key, "")) for key in ("Name", "LayerType", "TacticName", "Metadata")
    )
    attention: Literal["fused", "unfused", "none"] = "none"
    if FUSED.search(f"{kind} {tactic}") or FUSED_NAME.search(name):
        attention = "fused"
    elif UNFUSED.search(f"{name} {kind} {origin}"):
        attention = "unfused"
    return Layer(name, kind, tuple(_format(output) for output in information.get("Outputs", [])), attention)


def _format(tensor: dict[str, Any]) -> str:
    """The inspector's key depends on TensorRT's version."""
    words = [tensor.get(key) for key in ("Format/Datatype", "Datatype", "Format")]
    return " ".join(str(word) for word in words if word)
