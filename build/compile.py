"""Compiles an ONNX file into a serialized TensorRT engine."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from build.layers import BuildLog, Layer, Report, layers_of_json
from build.progress import watched
from files import write_whole
from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine, check_tensors, describe, layout
from runtime.tensorrt_calls import TensorRTError, checked, listening, logger_of, make, on
from runtime.tensorrt_library import Library, capability, sm

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

WORKSPACE = 4 << 30  # largest workspace that a kernel may request, in bytes


@dataclass(frozen=True)
class Builder:
    """The library that builds the engines, the GPUs that it builds for, and the build options."""

    library: Library
    device: torch.device  # the GPU in use; the CPU if a portable library builds without one
    targets: tuple[int, ...] = ()  # compute capabilities to build for; portable libraries only
    refit: bool = False  # keep the weights replaceable (runtime.tensorrt_refit); kernels may be slower
    timing_cache: Path | None = None  # kernel timings for later builds, valid for one GPU and TensorRT version

    @property
    def runs(self) -> bool:
        """Whether this machine can run the engines."""
        if self.device.type != "cuda":
            return False
        return not self.targets or capability(self.device) in self.targets


def compile_engine(onnx: Path, spec: EngineSpec, builder: Builder) -> tuple[bytes, Report]:
    """Build an engine from an ONNX file; return the serialized engine and its report.

    The file must have static shapes and the tensors of `spec`. The network is strongly typed: the file sets the
    precision. Raise TensorRTError with the reason if the build fails; after Ctrl-C, raise KeyboardInterrupt once
    TensorRT has stopped.
    """
    heard, start = BuildLog(), time.perf_counter()
    with on(builder.device), listening(logger_of(builder.library.load()), heard):
        serialized = _build(onnx, spec, builder)
    seconds = time.perf_counter() - start
    layers, scratch = heard.layers, heard.scratch_bytes
    if not layers:
        layers, scratch = _inspect(spec, serialized, builder.device) or ((), scratch)
    return serialized, Report(spec.name, seconds, len(serialized), scratch, layers)


def _inspect(spec: EngineSpec, serialized: bytes, device: torch.device) -> tuple[tuple[Layer, ...], int] | None:
    """Return the layers and scratch bytes of the engine itself; if it cannot be inspected, log why and return None."""
    try:
        engine = TensorRTEngine(spec, serialized, device)
        inspector = checked(engine.engine.create_engine_inspector(), "its inspector cannot be created", engine.logger)
        text = inspector.get_engine_information(engine.trt.LayerInformationFormat.JSON)
        return layers_of_json(text), engine.scratch_bytes
    except (TensorRTError, ValueError) as error:
        log.warning("engine %s: layers unknown (%s)", spec.name, str(error))
        return None


def _build(onnx: Path, spec: EngineSpec, builder: Builder) -> bytes:
    """Return the serialized engine. Network, parser and configuration share memory: keep all until the build ends."""
    trt = builder.library.load()
    logger = logger_of(trt)
    native = make(lambda: trt.Builder(logger), "Builder", logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = checked(native.create_network(flags), f"engine {spec.name}: TensorRT cannot create a network", logger)
    parser = make(lambda: trt.OnnxParser(network, logger), "OnnxParser", logger)
    if not parser.parse_from_file(str(onnx)):
        raise TensorRTError(f"engine {spec.name}: {onnx} cannot be parsed: {_parser_errors(parser)}", logger.heard())
    _set_formats(trt, network, spec)
    config = checked(
        native.create_builder_config(), f"engine {spec.name}: TensorRT cannot create a configuration", logger
    )
    _configure(trt, config, builder)
    if builder.library.portable:
        _set_targets(trt, config, builder.targets, logger)
    times = builder.timing_cache if builder.library.timing_cache else None
    if times:
        _load_times(config, times, logger)
    with watched(trt, config, spec.name):
        serialized = native.build_serialized_network(network, config)
    data = bytes(checked(serialized, f"engine {spec.name}: {onnx} cannot be built", logger))
    if times:
        _save_times(config, times, logger)
    return data


def _parser_errors(parser: "trt.OnnxParser") -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(f"node {error.node()} {error.node_name()!r}: {error.desc()}" for error in errors)


def _set_formats(trt: Any, network: "trt.INetworkDefinition", spec: EngineSpec) -> None:
    """Give each input and output its buffer's layout. Raise TensorRTError if the file's tensors differ from `spec`."""
    layouts = {one.name: layout(one) for one in (*spec.inputs, *spec.outputs)}
    tensors = [("INPUT", network.get_input(i)) for i in range(network.num_inputs)]
    tensors += [("OUTPUT", network.get_output(i)) for i in range(network.num_outputs)]
    found = {
        tensor.name: describe(mode, tensor.dtype.name, tensor.shape, layouts.get(tensor.name, "LINEAR"))
        for mode, tensor in tensors
    }
    check_tensors(spec, found)
    for _, tensor in tensors:
        tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, layouts[tensor.name]))


def _configure(trt: Any, config: "trt.IBuilderConfig", builder: Builder) -> None:
    config.max_aux_streams = 0  # the caller manages the streams; this keeps the CUDA graph simple
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # makes the log or the inspector list the layers
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    config.clear_flag(trt.BuilderFlag.TF32)  # full float32 precision, as in the other backends
    if builder.refit:
        config.set_flag(trt.BuilderFlag.REFIT)


def _set_targets(trt: Any, config: Any, targets: tuple[int, ...], logger: Any) -> None:
    """Build for these compute capabilities, whether or not such a GPU is present."""
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        name = sm(target).upper()
        checked(
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index),
            f"TensorRT cannot build for {name}",
            logger,
        )


def _load_times(config: "trt.IBuilderConfig", path: Path, logger: Any) -> None:
    """Load the timing cache; create an empty one if the file is missing, unreadable or from another GPU or version."""
    if path.exists():
        old = config.create_timing_cache(path.read_bytes())
        if old is not None and config.set_timing_cache(old, ignore_mismatch=False):
            return
        log.info("replacing timing cache %s: unreadable, or from another GPU or version (%s)", path, logger.heard())
    sentence = f"timing cache {path} cannot be created"
    new = checked(config.create_timing_cache(b""), sentence, logger)
    checked(config.set_timing_cache(new, ignore_mismatch=False), sentence, logger)


def _save_times(config: "trt.IBuilderConfig", path: Path, logger: Any) -> None:
    sentence = f"timing cache {path} cannot be saved"
    cache = checked(config.get_timing_cache(), sentence, logger)
    write_whole(path, bytes(checked(cache.serialize(), sentence, logger)))
