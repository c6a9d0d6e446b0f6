"""The part of the stand-in that refits an engine's weights."""

import ctypes
from math import prod
from typing import Any

import numpy as np
import onnx

from tests.standin.parts import NUMPY, DataType, ILogger, Made, demand, dtype_of, fails


class Weights:
    __slots__ = ("_ptr", "dtype", "size")

    def __init__(self, type: DataType, ptr: int, count: int) -> None:
        demand(type, DataType)
        self.dtype, self._ptr, self.size = type, ptr, count


class Refitter(Made):
    """TensorRT lists the constants that it can refit; the stand-in lists all of them."""

    def __init__(self, engine: Any, logger: ILogger) -> None:
        super().__init__(logger)
        if not engine.refittable:
            raise AssertionError("the project checks `refittable` first")
        self._engine, self._given = engine, dict[str, Weights]()
        model = onnx.load_from_string(engine._model)
        self._all = {one.name: dtype_of(one.data_type) for one in model.graph.initializer}
        self._sizes = {one.name: prod(one.dims) for one in model.graph.initializer}

    def get_all_weights(self) -> list[str]:
        return [] if fails("get_all_weights", self._logger) else [*self._all]

    def get_weights_prototype(self, weights_name: str) -> Weights:
        if fails("get_weights_prototype", self._logger):
            return Weights(DataType.FLOAT, 0, -1)
        return Weights(self._all[weights_name], 0, self._sizes[weights_name])

    def set_named_weights(self, name: str, weights: Weights) -> bool:
        demand(weights, Weights)
        if (weights.dtype, weights.size) != (self._all[name], self._sizes[name]):
            raise AssertionError("the project checks type and size first")
        self._given[name] = weights
        return not fails("set_named_weights", self._logger)

    def get_missing_weights(self) -> list[str]:
        return ["val_1"] if fails("get_missing_weights", self._logger) else []

    def refit_cuda_engine(self) -> bool:
        model = onnx.load_from_string(self._engine._model)
        for one in model.graph.initializer:
            if weights := self._given.get(one.name):
                one.raw_data = ctypes.string_at(weights._ptr, weights.size * np.dtype(NUMPY[weights.dtype]).itemsize)
        self._engine._model = model.SerializeToString()
        return not fails("refit_cuda_engine", self._logger)
