"""TensorRT's engines of one size of pictures, from the serialized ones that a file holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakSet

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor, nn

from cldm.model import ControlLDM
from cldm.stages import make_stages
from runtime.backends import Backend
from runtime.engine import Engine
from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_kernels import KernelCache
from runtime.tensorrt_refit import refit


@dataclass(frozen=True)
class TensorRTEngines:
    """Makes them: with the weights that they were built from, or with others in their place.

    Pipelines share what was read of an engine, its weights above all, for as long as one of them is there.
    """

    serialized: Mapping[str, bytes]  # by stage
    device: torch.device
    kernels: KernelCache | None = None  # for engines whose kernels are compiled here
    weights: Mapping[str, Tensor] | None = None  # by the checkpoint's keys, as they are when an engine is read
    made: dict[str, WeakSet[TensorRTEngine]] = field(default_factory=dict, init=False, compare=False)  # by stage

    def __call__(self, spec: EngineSpec, module: nn.Module) -> Engine:
        others = self.made.setdefault(spec.name, WeakSet())
        other = next(iter(others), None)
        engine = other.twin() if other else self.read(spec)
        others.add(engine)
        return engine

    def read(self, spec: EngineSpec) -> TensorRTEngine:
        """An engine that shares nothing with others. Raises TensorRTError."""
        engine = TensorRTEngine(spec, self.serialized[spec.name], self.device, self.kernels)
        if self.weights is not None:
            refit(engine, self.weights)
        return engine

    @property
    def backend(self) -> Backend:
        return Backend("tensorrt", self, self.kernels.save if self.kernels else lambda: None)


def refitted(backend: Backend, size: tuple[int, int, int], model: ControlLDM, weights: Mapping[str, Tensor]) -> Backend:
    """The backend with other weights in TensorRT's engines: `weights` as they are when an engine is read.

    size: height, width, samples. Each engine is read once with the weights of `model` and thrown away: so it is known
    what TensorRT refuses before anything has changed, and none is refitted that could be running. Raises TensorRTError.
    """
    assert isinstance(backend.make_engine, TensorRTEngines)
    trial = replace(backend.make_engine, weights=model.state_dict())
    for stage in make_stages(model, *size).values():
        trial.read(stage.spec)
    return replace(trial, weights=weights).backend


def pack_engines(serialized: Mapping[str, bytes]) -> bytes:
    """Serialized engines by stage, as one file."""
    return safetensors.numpy.save({name: np.frombuffer(data, np.uint8) for name, data in serialized.items()})


def unpack_engines(data: bytes) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in safetensors.numpy.load(data).items()}
