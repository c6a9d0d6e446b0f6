"""Creates TensorRT engines for one picture size from the serialized engines in a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakSet

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
    """Creates engines with the weights that they were built with, or with `weights` instead.

    Pipelines share one deserialized engine per stage, and thus its weights, for as long as one of them uses it.
    """

    serialized: Mapping[str, bytes]  # by stage
    device: torch.device
    kernels: KernelCache | None = None  # for libraries that compile kernels on this machine
    weights: Mapping[str, Tensor] | None = None  # by the checkpoint's keys; copied when `read` is called
    made: dict[str, WeakSet[TensorRTEngine]] = field(default_factory=dict, init=False, compare=False)

    def __call__(self, spec: EngineSpec, module: nn.Module) -> Engine:
        others = self.made.setdefault(spec.name, WeakSet())
        other = next(iter(others), None)
        engine = other.twin() if other else self.read(spec)
        others.add(engine)
        return engine

    def read(self, spec: EngineSpec) -> TensorRTEngine:
        """Deserialize an engine that shares nothing with others. Raises TensorRTError if TensorRT rejects it."""
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
