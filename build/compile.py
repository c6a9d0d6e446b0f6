"""From an ONNX file to a TensorRT plan, by whichever library builds for the GPU in question."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from build.layers import BuildLog, Layer, Report, layers_of_json
from files import write_whole
from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine, check_tensors, describe, layout
from runtime.tensorrt_calls import TensorRTError, checked, listening, logger_of, make, on
from runtime.tensorrt_library import Library, sm

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompileOptions:
    targets: tuple[int, ...] = ()  # compute capabilities that a portable library builds for
    optimization_level: int = 3  # 0 (builds fastest) to 5 (tries most kernels)
    workspace_bytes: int = 4 << 30  # that a kernel may at most ask for
    timing_cache: Path | None = None  # times of kernels, for later builds; of one GPU and one version of TensorRT
    refit: bool = False  # leave the weights open, for runtime.tensorrt_refit; kernels may be slower


def compile_plan(
    onnx: Path, spec: EngineSpec, library: Library, device: torch.device, options: CompileOptions | None = None
) -> tuple[bytes, Report]:
    """The plan of an ONNX file with static shapes whose inputs and outputs are those of `spec`, and its report.

    Strongly typed: precision is what the file says. device: where a library that is not portable measures kernels.
    Raises TensorRTError with the reason, KeyboardInterrupt once TensorRT has stopped.
    """
    heard, start = BuildLog(), time.perf_counter()
    with on(device), listening(logger_of(library.load()), heard):
        plan = _build(onnx, spec, library, options or CompileOptions())
    seconds = time.perf_counter() - start
    layers, scratch = heard.layers, heard.scratch_bytes
    if not layers:
        engine = TensorRTEngine(spec, plan, device)
        layers, scratch = inspect(engine), engine.scratch_bytes
    return plan, Report(spec.name, seconds, len(plan), scratch, layers)


def inspect(engine: TensorRTEngine) -> tuple[Layer, ...]:
    """The layers of an engine that was built with detailed profiling verbosity. Raises TensorRTError otherwise."""
    name, logger = engine.spec.name, engine.logger
    inspector = checked(engine.engine.create_engine_inspector(), f"engine {name} cannot be inspected", logger)
    try:
        return layers_of_json(inspector.get_engine_information(engine.trt.LayerInformationFormat.JSON))
    except ValueError as error:
        raise TensorRTError(
            f"engine {name}: EngineInspector's text has {error}; build it again", logger.heard()
        ) from error


def _build(onnx: Path, spec: EngineSpec, library: Library, options: CompileOptions) -> bytes:
    """Network, parser and configuration stay referenced here until the plan is made: they share memory."""
    trt = library.load()
    logger = logger_of(trt)
    builder = make(lambda: trt.Builder(logger), "Builder", logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = checked(builder.create_network(flags), f"engine {spec.name}: TensorRT makes no network", logger)
    parser = make(lambda: trt.OnnxParser(network, logger), "OnnxParser", logger)
    if not parser.parse_from_file(str(onnx)):
        raise TensorRTError(f"engine {spec.name}: {onnx} cannot be parsed: {_parser_errors(parser)}", logger.heard())
    _set_formats(trt, network, spec)
    config = checked(builder.create_builder_config(), f"engine {spec.name}: TensorRT makes no configuration", logger)
    _configure(trt, config, options)
    if library.portable:
        _set_targets(trt, config, options.targets, logger)
    times = options.timing_cache if library.timing_cache else None
    _load_timing_cache(config, times, logger)
    with tqdm(desc=f"building {spec.name}", unit="step") as progress:
        monitor = make_monitor(trt, progress)
        config.progress_monitor = monitor
        with _interrupts_noted(monitor):
            plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    data = bytes(checked(plan, f"engine {spec.name}: {onnx} cannot be built", logger))
    _save_timing_cache(config, times, logger)
    return data


@contextmanager
def _interrupts_noted(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C stop the build at its next step: the bindings swallow an exception that is raised in a callback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: object) -> None:
        monitor.interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _parser_errors(parser: "trt.OnnxParser") -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(f"node {error.node()} {error.node_name()!r}: {error.desc()}" for error in errors)


def _set_formats(trt: Any, network: "trt.INetworkDefinition", spec: EngineSpec) -> None:
    """Let the plan read and write buffers in their layouts. Raises TensorRTError if the file has other tensors."""
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


def _configure(trt: Any, config: "trt.IBuilderConfig", options: CompileOptions) -> None:
    config.builder_optimization_level = options.optimization_level
    config.max_aux_streams = 0  # the caller has streams of its own, and a CUDA graph stays simple
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that log or inspector list the layers
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is to be exact, as in the other backends
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)


def _set_targets(trt: Any, config: Any, targets: tuple[int, ...], logger: Any) -> None:
    """Build for GPUs of these compute capabilities, whether or not one is here."""
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        name = sm(target).upper()
        checked(
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index),
            f"TensorRT does not build for {name}",
            logger,
        )


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
    write_whole(path, bytes(checked(cache.serialize(), sentence, logger)))


def make_monitor(trt: Any, progress: "tqdm[Any]") -> Any:
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
