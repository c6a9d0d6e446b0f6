"""A stand-in for TensorRT at run time: the part of its Python API that reads and runs plans, without a GPU.

Plans are made by `make_plan` from ONNX files, which onnxruntime runs on the CPU; "device" addresses are CPU memory.
Names, arguments and signs of failure (None, False, a line to the logger) are those of the real bindings; speed, fusion,
capture and numerics are not. What builds plans is not here: tests have the real builder of TensorRT for RTX.
`fail_once(name)` makes the next call of that name fail.
"""

import ctypes
import json
from collections.abc import Mapping
from enum import IntEnum
from math import prod
from pathlib import Path
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


def make_plan(path: Path, layouts: Mapping[str, str], refit: bool = False, magic: bytes = b"ftrt") -> bytes:
    """A plan that computes the ONNX file, with TensorRT's header. layouts: the name of each tensor's TensorFormat."""
    model = onnx.load(path)
    tensors = {
        value.name: {
            "mode": mode,
            "dtype": _dtype(value.type.tensor_type.elem_type),
            "shape": [size.dim_value for size in value.type.tensor_type.shape.dim],
            "format": TensorFormat[layouts[value.name]],
        }
        for mode, values in ((TensorIOMode.INPUT, model.graph.input), (TensorIOMode.OUTPUT, model.graph.output))
        for value in values
    }
    content = {"tensors": tensors, "refit": refit, "model": model.SerializeToString().hex()}
    return magic + bytes(20) + _version() + json.dumps(content).encode()


def _version() -> bytes:
    return bytes(int(number) for number in __version__.split("."))


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


class LayerInformationFormat(IntEnum):
    ONELINE, JSON = range(2)


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


class IHostMemory(bytes):
    nbytes = property(len)


class Runtime(_Made):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        if _fails("deserialize_cuda_engine", self._logger):
            return None
        if serialized_engine[24:28] != _version():
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
        self,
        strategy: "ExecutionContextAllocationStrategy | IRuntimeConfig" = ExecutionContextAllocationStrategy.STATIC,
    ) -> "IExecutionContext | None":
        if isinstance(strategy, IRuntimeConfig):
            strategy = strategy._strategy
        if strategy != ExecutionContextAllocationStrategy.USER_MANAGED:
            raise AssertionError("the project gives scratch memory itself")
        return None if _fails("create_execution_context", self._logger) else IExecutionContext(self)

    def create_runtime_config(self) -> "IRuntimeConfig | None":
        return None if _fails("create_runtime_config", self._logger) else IRuntimeConfig(self._logger)

    def create_engine_inspector(self) -> "EngineInspector | None":
        return None if _fails("create_engine_inspector", self._logger) else EngineInspector(self)


class IRuntimeCache:
    """Of TensorRT for RTX. Its content says how often it was used."""

    HEADER = b"kernels of this machine"

    def __init__(self, logger: ILogger) -> None:
        self._logger, self._data = logger, self.HEADER

    def serialize(self) -> IHostMemory | None:
        return None if _fails("serialize", self._logger) else IHostMemory(self._data)

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(self.HEADER):
            return not _error(self._logger, "the runtime cache is of another machine")
        self._data = blob
        return True


class IRuntimeConfig:
    """Of TensorRT for RTX."""

    def __init__(self, logger: ILogger) -> None:
        self._logger, self._strategy = logger, ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache | None:
        return None if _fails("create_runtime_cache", self._logger) else IRuntimeCache(self._logger)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        cache._data += b"."
        return not _fails("set_runtime_cache", self._logger)


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

    def is_stream_capturable(self, stream: int) -> bool:
        """Of TensorRT for RTX."""
        return not _fails("is_stream_capturable", self._logger)

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
        return json.dumps({"Layers": [{"Name": node.name, "LayerType": node.op_type} for node in nodes]})
