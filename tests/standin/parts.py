"""Shared parts of the TensorRT stand-in: enums, the logger and injected failures."""

from enum import IntEnum

import numpy as np
import onnx

to_fail: set[str] = set()


def fail_once(name: str) -> None:
    """Make the next call of this method or class fail as TensorRT does."""
    to_fail.add(name)


def fails(name: str, logger: "ILogger") -> bool:
    if name not in to_fail:
        return False
    to_fail.remove(name)
    return error_heard(logger, f"{name}: injected failure")


def error_heard(logger: "ILogger", text: str) -> bool:
    """Log the error and return True, so that a check reads `if wrong and error_heard(...)`."""
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


class Base:
    """A base class whose subclasses must call its __init__, as the bindings require."""

    _ready = False

    def __init__(self) -> None:
        self._ready = True


class ILogger(Base):
    class Severity(IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


def demand(value: object, kind: type) -> None:
    if not isinstance(value, kind) or (isinstance(value, Base) and not value._ready):
        raise TypeError(f"incompatible function arguments: {value!r} is not a {kind.__name__}")


class Made:
    """A class whose constructor needs a logger; the bindings raise TypeError if the library returns a null pointer."""

    def __init__(self, logger: ILogger) -> None:
        demand(logger, ILogger)
        if fails(type(self).__name__, logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger


def dtype_of(onnx_type: int) -> DataType:
    kind = onnx.helper.tensor_dtype_to_np_dtype(onnx_type)
    return next(dtype for dtype, numpy in NUMPY.items() if kind == numpy)
