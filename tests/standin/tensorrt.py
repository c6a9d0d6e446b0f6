"""A stand-in, NOT TensorRT: the part of its Python API that this project calls, for machines without it.

Networks run in onnxruntime on the CPU; "device" addresses are CPU memory. Names, arguments and signs of failure (None,
False, a line to the logger) are those of the real bindings; speed, fusion, capture and numerics are not.
`fail_once(name)` makes the next call of that name fail. Plans have TensorRT's header before a content of their own.
"""

import ctypes
import json
from enum import IntEnum
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime

__version__ = "10.16.1.11"
SCRATCH_BYTES = 1000
ALIGNMENT = 256
_to_fail: set[str] = set()


def fail_once(name: str) -> None:
    """Let the next call of this method, or of this class, give its sign of failure."""
    _to_fail.add(name)


def _fails(name: str, logger: "ILogger") -> bool:
    if name not in _to_fail:
        return False
    _to_fail.remove(name)
    return _error(logger, f"{name} was told to fail")


def _error(logger: "ILogger", text: str) -> bool:
    """True, so that a check reads `if wrong and _error(...)`."""
    logger.log(ILogger.Severity.ERROR, text)
    return True


class DataType(IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


class TensorFormat(IntEnum):
    LINEAR, CHW2, HWC8 = range(3)
    HWC = 8


class TensorIOMode(IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class ProfilingVerbosity(IntEnum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class LayerInformationFormat(IntEnum):
    ONELINE, JSON = range(2)


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class BuilderFlag(IntEnum):
    REFIT, TF32 = 4, 6


class NetworkDefinitionCreationFlag(IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.UINT8: np.uint8,
    DataType.BOOL: np.bool_,
}


class _Base:
    """The bindings demand that a subclass calls __init__ of what it extends."""

    _ready = False

    def __init__(self) -> None:
        self._ready = True


class ILogger(_Base):
    class Severity(IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor(_Base):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


def _demand(value: object, kind: type) -> None:
    if not isinstance(value, kind) or (isinstance(value, _Base) and not value._ready):
        raise TypeError(f"incompatible function arguments: {value!r} is no {kind.__name__}")


class _Made:
    """What a logger must be given to; the bindings raise TypeError if the library makes nothing."""

    def __init__(self, logger: ILogger) -> None:
        _demand(logger, ILogger)
        if _fails(type(self).__name__, logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger


def _dtype(onnx_type: int) -> DataType:
    kind = onnx.helper.tensor_dtype_to_np_dtype(onnx_type)
    return next(dtype for dtype, numpy in NUMPY.items() if kind == numpy)


class ITensor:
    __slots__ = ("allowed_formats", "dtype", "name", "shape")

    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name = value.name
        self.dtype = _dtype(value.type.tensor_type.elem_type)
        self.shape = tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        self.allowed_formats = 1 << TensorFormat.LINEAR

    def properties(self, mode: TensorIOMode) -> dict[str, Any]:
        formats = [one for one in TensorFormat if self.allowed_formats == 1 << one]
        return {"mode": mode, "dtype": self.dtype, "shape": self.shape, "format": formats[0]}


class INetworkDefinition:
    def __init__(self) -> None:
        self.model = onnx.ModelProto()
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return 3

    def node_name(self) -> str:
        return "node_of_the_standin"


class OnnxParser(_Made):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        _demand(network, INetworkDefinition)
        super().__init__(logger)
        self._network = network
        self._errors: list[ParserError] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        _demand(model, str)
        try:
            if _fails("parse_from_file", self._logger):
                raise ValueError("an operator that nobody knows")
            found = onnx.load(model)
            onnx.checker.check_model(found)
        except Exception as error:
            self._errors.append(ParserError(str(error)))
            return False
        self._network.model = found
        self._network._inputs = [ITensor(value) for value in found.graph.input]
        self._network._outputs = [ITensor(value) for value in found.graph.output]
        return True


class IHostMemory(bytes):
    nbytes = property(len)


class ITimingCache:
    HEADER = f"times of {__version__}: ".encode()

    def __init__(self, data: bytes, logger: ILogger) -> None:
        self._data, self._logger = bytes(data) or self.HEADER, logger

    def serialize(self) -> IHostMemory | None:
        return None if _fails("serialize", self._logger) else IHostMemory(self._data)


class IBuilderConfig:
    __slots__ = (
        "_cache",
        "_logger",
        "builder_optimization_level",
        "cleared",
        "flags",
        "limits",
        "max_aux_streams",
        "profiling_verbosity",
        "progress_monitor",
    )

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self._cache: ITimingCache | None = None
        self.builder_optimization_level = 3
        self.max_aux_streams = 7
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: IProgressMonitor | None = None
        self.limits: dict[MemoryPoolType, int] = {}
        self.cleared: set[BuilderFlag] = set()
        self.flags: set[BuilderFlag] = set()

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        _demand(pool, MemoryPoolType)
        self.limits[pool] = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        _demand(flag, BuilderFlag)
        self.cleared.add(flag)

    def set_flag(self, flag: BuilderFlag) -> None:
        _demand(flag, BuilderFlag)
        self.flags.add(flag)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        failed = _fails("create_timing_cache", self._logger)
        return None if failed else ITimingCache(serialized_timing_cache, self._logger)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        _demand(cache, ITimingCache)
        if _fails("set_timing_cache", self._logger):
            return False
        foreign = not cache._data.startswith(ITimingCache.HEADER)
        if foreign and not ignore_mismatch and _error(self._logger, "Timing cache verification header mismatch"):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return None if _fails("get_timing_cache", self._logger) else self._cache


class Builder(_Made):
    def create_network(self, flags: int = 0) -> INetworkDefinition | None:
        if flags != 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
            raise AssertionError("the project builds strongly typed networks")
        return None if _fails("create_network", self._logger) else INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig | None:
        return None if _fails("create_builder_config", self._logger) else IBuilderConfig(self._logger)

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        _demand(network, INetworkDefinition)
        _demand(config, IBuilderConfig)
        if _fails("build_serialized_network", self._logger) or not self._progress(config.progress_monitor):
            return None
        if config._cache is not None:
            config._cache._data += b"."
        tensors = {one.name: one.properties(TensorIOMode.INPUT) for one in network._inputs}
        tensors |= {one.name: one.properties(TensorIOMode.OUTPUT) for one in network._outputs}
        content = {
            "tensors": tensors,
            "refit": BuilderFlag.REFIT in config.flags,
            "detailed": config.profiling_verbosity == ProfilingVerbosity.DETAILED,
            "model": network.model.SerializeToString().hex(),
        }
        version = bytes(int(number) for number in __version__.split("."))
        return IHostMemory(b"ftrt" + bytes(20) + version + json.dumps(content).encode())

    def _progress(self, monitor: IProgressMonitor | None) -> bool:
        """Two phases, one in the other, of which the outer ends early."""
        if monitor is None:
            return True
        _demand(monitor, IProgressMonitor)
        monitor.phase_start("Building Engine", None, 3)
        monitor.phase_start("Timing", "Building Engine", 2)
        steps = [("Timing", 0), ("Timing", 1), ("Building Engine", 0)]
        going_on = all(monitor.step_complete(phase, step) for phase, step in steps)
        monitor.phase_finish("Timing")
        monitor.phase_finish("Building Engine")
        return going_on


class Runtime(_Made):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        if _fails("deserialize_cuda_engine", self._logger):
            return None
        version = bytes(int(number) for number in __version__.split("."))
        if serialized_engine[:4] != b"ftrt" or serialized_engine[24:28] != version:
            raise AssertionError("the project checks the header beforehand")
        try:
            return ICudaEngine(json.loads(serialized_engine[28:]), self._logger)
        except ValueError:
            _error(self._logger, "Serialization assertion stdArchiveReaderInitCommon failed")
            return None


class ICudaEngine:
    device_memory_size_v2 = SCRATCH_BYTES

    def __init__(self, content: dict[str, Any], logger: ILogger) -> None:
        self._content, self._tensors, self._logger = content, content["tensors"], logger
        self._model = bytes.fromhex(content["model"])

    num_io_tensors = property(lambda self: len(self._tensors))
    refittable = property(lambda self: self._content["refit"])

    def get_tensor_name(self, index: int) -> str:
        return [*self._tensors][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode(self._tensors[name]["mode"])

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self._tensors[name]["dtype"])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name]["shape"])

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat(self._tensors[name]["format"])

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> "IExecutionContext | None":
        if strategy != ExecutionContextAllocationStrategy.USER_MANAGED:
            raise AssertionError("the project gives scratch memory itself")
        return None if _fails("create_execution_context", self._logger) else IExecutionContext(self)

    def create_engine_inspector(self) -> "EngineInspector | None":
        return None if _fails("create_engine_inspector", self._logger) else EngineInspector(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._logger = engine, engine._logger
        self._model = b""
        self._addresses: dict[str, int] = {}
        self._scratch = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        if memory % ALIGNMENT or size < SCRATCH_BYTES:
            raise AssertionError("the project checks scratch memory beforehand")
        self._scratch = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        wrong = name not in self._engine._tensors or memory % ALIGNMENT != 0
        if wrong and _error(self._logger, f"The provided address must be aligned to {ALIGNMENT} bytes"):
            return False
        self._addresses[name] = memory
        return not _fails("set_tensor_address", self._logger)

    def execute_async_v3(self, stream_handle: int) -> bool:
        _demand(stream_handle, int)
        if _fails("execute_async_v3", self._logger):
            return False
        missing = [name for name in self._engine._tensors if name not in self._addresses]
        if (missing or not self._scratch) and _error(self._logger, f"Address is not set for {missing or 'scratch'}"):
            return False
        ctypes.memset(self._scratch, 0xAB, SCRATCH_BYTES)
        if self._model is not self._engine._model:  # a context follows when its engine is refitted
            self._model = self._engine._model
            self._session = onnxruntime.InferenceSession(self._model, providers=["CPUExecutionProvider"])
        inputs = [one.name for one in self._session.get_inputs()]
        outputs = [one.name for one in self._session.get_outputs()]
        results = self._session.run(outputs, {name: self._memory(name) for name in inputs})
        for name, result in zip(outputs, results, strict=True):
            self._memory(name)[...] = result
        return True

    def _memory(self, name: str) -> Any:
        """The tensor in the caller's memory, its axes in ONNX's order."""
        shape, dtype = self._engine.get_tensor_shape(name), NUMPY[self._engine.get_tensor_dtype(name)]
        count = prod(shape) * np.dtype(dtype).itemsize
        flat: Any = np.frombuffer(memoryview((ctypes.c_char * count).from_address(self._addresses[name])), dtype)
        if self._engine.get_tensor_format(name) == TensorFormat.LINEAR:
            return flat.reshape(shape)
        batch, channels, height, width = shape
        return flat.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


class Weights:
    __slots__ = ("_ptr", "dtype", "size")

    def __init__(self, type: DataType, ptr: int, count: int) -> None:
        _demand(type, DataType)
        self.dtype, self._ptr, self.size = type, ptr, count


class Refitter(_Made):
    """TensorRT lists what of the constants it likes; here all of them."""

    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        _demand(engine, ICudaEngine)
        super().__init__(logger)
        if not engine.refittable:
            raise AssertionError("the project asks beforehand")
        self._engine, self._given = engine, dict[str, Weights]()
        model = onnx.load_from_string(engine._model)
        self._all = {one.name: _dtype(one.data_type) for one in model.graph.initializer}
        self._sizes = {one.name: prod(one.dims) for one in model.graph.initializer}

    def get_all_weights(self) -> list[str]:
        return [] if _fails("get_all_weights", self._logger) else [*self._all]

    def get_weights_prototype(self, weights_name: str) -> Weights:
        if _fails("get_weights_prototype", self._logger):
            return Weights(DataType.FLOAT, 0, -1)
        return Weights(self._all[weights_name], 0, self._sizes[weights_name])

    def set_named_weights(self, name: str, weights: Weights) -> bool:
        _demand(weights, Weights)
        if (weights.dtype, weights.size) != (self._all[name], self._sizes[name]):
            raise AssertionError("the project checks type and size beforehand")
        self._given[name] = weights
        return not _fails("set_named_weights", self._logger)

    def get_missing_weights(self) -> list[str]:
        return ["val_1"] if _fails("get_missing_weights", self._logger) else []

    def refit_cuda_engine(self) -> bool:
        model = onnx.load_from_string(self._engine._model)
        for one in model.graph.initializer:
            if weights := self._given.get(one.name):
                one.raw_data = ctypes.string_at(weights._ptr, weights.size * np.dtype(NUMPY[weights.dtype]).itemsize)
        self._engine._model = model.SerializeToString()
        return not _fails("refit_cuda_engine", self._logger)


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        if format != LayerInformationFormat.JSON:
            raise AssertionError("the project reads JSON")
        if _fails("get_engine_information", self._engine._logger):
            return ""
        nodes = onnx.load_from_string(self._engine._model).graph.node
        detailed = self._engine._content["detailed"]
        return json.dumps({"Layers": [_layer(node, i) if detailed else node.name for i, node in enumerate(nodes)]})


def _layer(node: onnx.NodeProto, index: int) -> dict[str, Any]:
    """As TensorRT describes what its compiler makes of a node; an Attention node is one fused kernel."""
    fused = node.op_type == "Attention"
    return {
        "Name": f"_gemm_mha_v2_myl0_{index}" if fused else f"__myl_{node.op_type}_myl0_{index}",
        "LayerType": "kgen",
        "Outputs": [{"Name": name, "Dimensions": [], "Format/Datatype": "Float"} for name in node.output],
        "TacticName": f"_gemm_mha_v2_0x{index:x}" if fused else f"__myl_0x{index:x}",
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: {node.name}]",
    }
