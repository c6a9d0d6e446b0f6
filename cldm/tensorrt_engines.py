"""TensorRT engines for one picture size, created from the serialized engines in a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakSet

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor, nn

from cldm.model import ControlLDM
from cldm.stages import Size, make_stages
from runtime.backends import Backend
from runtime.engine import Engine
from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_kernels import KernelCache
from runtime.tensorrt_refit import refit


@dataclass(frozen=True)
class TensorRTEngines:
    """Creates engines with the weights that they were built from, or with `weights` in their place.

    Pipelines share a deserialized engine, which holds the weights, as long as one of them exists.
    """

    serialized: Mapping[str, bytes]  # by stage
    device: torch.device
    kernels: KernelCache | None = None  # for libraries that compile kernels on this machine
    weights: Mapping[str, Tensor] | None = None  # by the checkpoint's keys; copied when an engine is read
    made: dict[str, WeakSet[TensorRTEngine]] = field(default_factory=dict, init=False, compare=False)  # by stage

    def __call__(self, spec: EngineSpec, module: nn.Module) -> Engine:
        others = self.made.setdefault(spec.name, WeakSet())
        other = next(iter(others), None)
        engine = other.twin() if other else self.read(spec)
        others.add(engine)
        return engine

    def read(self, spec: EngineSpec) -> TensorRTEngine:
        """Deserialize an engine that shares nothing with others. Raises TensorRTError if TensorRT refuses it."""
        engine = TensorRTEngine(spec, self.serialized[spec.name], self.device, self.kernels)
        if self.weights is not None:
            refit(engine, self.weights)
        return engine

    @property
    def backend(self) -> Backend:
        return Backend("tensorrt", self, self.kernels.save if self.kernels else lambda: None)


def refitted(backend: Backend, size: Size, model: ControlLDM, weights: Mapping[str, Tensor]) -> Backend:
    """Return the backend with `weights` in TensorRT's engines; their values are copied when an engine is read.

    As a trial, each engine is read once, refitted with the weights of `model` and
    discarded: a refusal raises TensorRTError before anything has changed, and no running engine is refitted.
    """
    assert isinstance(backend.make_engine, TensorRTEngines)
    trial = replace(backend.make_engine, weights=model.state_dict())
    for stage in make_stages(model, *size).values():
        trial.read(stage.spec)
    return replace(trial, weights=weights).backend


def pack_engines(serialized: Mapping[str, bytes]) -> bytes:
    """Return serialized engines by stage as the content of one file."""
    return safetensors.numpy.save({name: np.frombuffer(data, np.uint8) for name, data in serialized.items()})


def unpack_engines(data: bytes) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in safetensors.numpy.load(data).items()}
