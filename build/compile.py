"""From an ONNX file to a serialized TensorRT engine, by whichever library builds for the GPU in question."""

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

WORKSPACE = 4 << 30  # bytes that a kernel may at most ask for


@dataclass(frozen=True)
class Builder:
    """What builds engines, and for which GPUs."""

    library: Library
    device: torch.device  # the GPU whose kernels are measured; the CPU where a portable library builds for others
    targets: tuple[int, ...] = ()  # compute capabilities that a portable library builds for
    refit: bool = False  # leave the weights open, for runtime.tensorrt_refit; kernels may be slower
    timing_cache: Path | None = None  # times of kernels, for later builds; of one GPU and one version of TensorRT

    @property
    def runs(self) -> bool:
        """Can this machine run the engines?"""
        if self.device.type != "cuda":
            return False
        return not self.targets or capability(self.device) in self.targets


def compile_engine(onnx: Path, spec: EngineSpec, builder: Builder) -> tuple[bytes, Report]:
    """The serialized engine of an ONNX file with static shapes and the tensors of `spec`, and its report.

    Strongly typed: precision is what the file says. Raises TensorRTError with the reason, KeyboardInterrupt once
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
    """Layers and scratch memory as the engine itself tells them, None where it cannot be asked; logs why not."""
    try:
        engine = TensorRTEngine(spec, serialized, device)
        inspector = checked(engine.engine.create_engine_inspector(), "it cannot be inspected", engine.logger)
        text = inspector.get_engine_information(engine.trt.LayerInformationFormat.JSON)
        return layers_of_json(text), engine.scratch_bytes
    except (TensorRTError, ValueError) as error:
        log.warning("engine %s: its layers are not known (%s)", spec.name, str(error))
        return None


def _build(onnx: Path, spec: EngineSpec, builder: Builder) -> bytes:
    """Network, parser and configuration stay referenced here until the engine is made: they share memory."""
    trt = builder.library.load()
    logger = logger_of(trt)
    native = make(lambda: trt.Builder(logger), "Builder", logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = checked(native.create_network(flags), f"engine {spec.name}: TensorRT makes no network", logger)
    parser = make(lambda: trt.OnnxParser(network, logger), "OnnxParser", logger)
    if not parser.parse_from_file(str(onnx)):
        raise TensorRTError(f"engine {spec.name}: {onnx} cannot be parsed: {_parser_errors(parser)}", logger.heard())
    _set_formats(trt, network, spec)
    config = checked(native.create_builder_config(), f"engine {spec.name}: TensorRT makes no configuration", logger)
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
    """Let the engine read and write buffers in their layouts. Raises TensorRTError if the file has other tensors."""
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
    config.max_aux_streams = 0  # the caller has streams of its own, and a CUDA graph stays simple
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that log or inspector list the layers
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is to be exact, as in the other backends
    if builder.refit:
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


def _load_times(config: "trt.IBuilderConfig", path: Path, logger: Any) -> None:
    """Use the file's times, or an empty cache if there is no file or it is of another GPU or version."""
    if path.exists():
        old = config.create_timing_cache(path.read_bytes())
        if old is not None and config.set_timing_cache(old, ignore_mismatch=False):
            return
        log.info("timing cache %s is of another GPU or TensorRT, so it is replaced (%s)", path, logger.heard())
    sentence = f"timing cache {path} cannot be begun"
    new = checked(config.create_timing_cache(b""), sentence, logger)
    checked(config.set_timing_cache(new, ignore_mismatch=False), sentence, logger)


def _save_times(config: "trt.IBuilderConfig", path: Path, logger: Any) -> None:
    sentence = f"timing cache {path} cannot be saved"
    cache = checked(config.get_timing_cache(), sentence, logger)
    write_whole(path, bytes(checked(cache.serialize(), sentence, logger)))
