"""A stand-in for TensorRT's runtime: the part of its Python API that reads and runs engines, without a GPU.

`serialize` creates engines from ONNX files, which onnxruntime runs on the CPU; "device" addresses are CPU memory.
Names, arguments and failures (None, False, a log message) are those of the real bindings; speed, fusion, capture and
numerics are not. There is no builder: tests use the real one of TensorRT for RTX.
`fail_once(name)` makes the next call of that name fail. The other modules of this folder are parts of the stand-in.
"""

import ctypes
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.standin.parts import (
    NUMPY,
    DataType,
    ExecutionContextAllocationStrategy,
    ILogger,
    LayerInformationFormat,
    Made,
    TensorFormat,
    TensorIOMode,
    demand,
    dtype_of,
    error_heard,
    fail_once,
    fails,
    to_fail,
)
from tests.standin.refit import Refitter, Weights
from tests.standin.rtx import IRuntimeCache, IRuntimeConfig

__all__ = ["ILogger", "IRuntimeCache", "Refitter", "Weights", "fail_once", "to_fail"]

__version__ = "10.16.1.11"
SCRATCH_BYTES = 1000
ALIGNMENT = 256


def serialize(path: Path, layouts: Mapping[str, str], refit: bool = False, magic: bytes = b"ftrt") -> bytes:
    """Return an engine that runs the ONNX file, with TensorRT's header. layouts: a TensorFormat name per tensor."""
    model = onnx.load(path)
    tensors = {
        value.name: {
            "mode": mode,
            "dtype": dtype_of(value.type.tensor_type.elem_type),
            "shape": [size.dim_value for size in value.type.tensor_type.shape.dim],
            "format": TensorFormat[layouts[value.name]],
        }
        for mode, values in ((TensorIOMode.INPUT, model.graph.input), (TensorIOMode.OUTPUT, model.graph.output))
        for value in values
    }
    content = {"tensors": tensors, "refit": refit, "model": model.SerializeToString().hex()}
    return magic + bytes(20) + _version() + json.dumps(content).encode()


make_plan = serialize  # the name that tests/test_tensorrt_backend.py uses


def _version() -> bytes:
    return bytes(int(number) for number in __version__.split("."))


class Runtime(Made):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        if fails("deserialize_cuda_engine", self._logger):
            return None
        if serialized_engine[24:28] != _version():
            raise AssertionError("the project checks the header first")
        try:
            return ICudaEngine(json.loads(serialized_engine[28:]), self._logger)
        except ValueError:
            error_heard(self._logger, "Serialization assertion stdArchiveReaderInitCommon failed")
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
            raise AssertionError("the project provides scratch memory itself")
        return None if fails("create_execution_context", self._logger) else IExecutionContext(self)

    def create_runtime_config(self) -> "IRuntimeConfig | None":
        return None if fails("create_runtime_config", self._logger) else IRuntimeConfig(self._logger)

    def create_engine_inspector(self) -> "EngineInspector | None":
        return None if fails("create_engine_inspector", self._logger) else EngineInspector(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._logger = engine, engine._logger
        self._model = b""
        self._addresses: dict[str, int] = {}
        self._scratch = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        if memory % ALIGNMENT or size < SCRATCH_BYTES:
            raise AssertionError("the project checks scratch memory first")
        self._scratch = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        wrong = name not in self._engine._tensors or memory % ALIGNMENT != 0
        if wrong and error_heard(self._logger, f"The provided address must be aligned to {ALIGNMENT} bytes"):
            return False
        self._addresses[name] = memory
        return not fails("set_tensor_address", self._logger)

    def is_stream_capturable(self, stream: int) -> bool:
        """Exists only in TensorRT for RTX."""
        return not fails("is_stream_capturable", self._logger)

    def execute_async_v3(self, stream_handle: int) -> bool:
        demand(stream_handle, int)
        if fails("execute_async_v3", self._logger):
            return False
        missing = [name for name in self._engine._tensors if name not in self._addresses]
        if missing or not self._scratch:
            error_heard(self._logger, f"Address is not set for {missing or 'scratch'}")
            return False
        ctypes.memset(self._scratch, 0xAB, SCRATCH_BYTES)
        if self._model is not self._engine._model:  # the engine was refitted
            self._model = self._engine._model
            self._session = onnxruntime.InferenceSession(self._model, providers=["CPUExecutionProvider"])
        inputs = [one.name for one in self._session.get_inputs()]
        outputs = [one.name for one in self._session.get_outputs()]
        results = self._session.run(outputs, {name: self._memory(name) for name in inputs})
        for name, result in zip(outputs, results, strict=True):
            self._memory(name)[...] = result
        return True

    def _memory(self, name: str) -> Any:
        """Return the tensor in the caller's memory, with its axes in ONNX's order."""
        shape, dtype = self._engine.get_tensor_shape(name), NUMPY[self._engine.get_tensor_dtype(name)]
        count = prod(shape) * np.dtype(dtype).itemsize
        flat: Any = np.frombuffer(memoryview((ctypes.c_char * count).from_address(self._addresses[name])), dtype)
        if self._engine.get_tensor_format(name) == TensorFormat.LINEAR:
            return flat.reshape(shape)
        batch, channels, height, width = shape
        return flat.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        if format != LayerInformationFormat.JSON:
            raise AssertionError("the project reads JSON")
        if fails("get_engine_information", self._engine._logger):
            return ""
        nodes = onnx.load_from_string(self._engine._model).graph.node
        return json.dumps({"Layers": [{"Name": node.name, "LayerType": node.op_type} for node in nodes]})
