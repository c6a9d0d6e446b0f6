"""An engine that runs a module compiled by Inductor, in fewer and faster kernels."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from runtime.channels_last import channels_last
from runtime.compiled_code import CompiledCode, Tuning
from runtime.engine import Engine, Stream
from runtime.fused_attention import fused_attention
from runtime.precision import full_float32
from runtime.spec import EngineSpec
from runtime.waiting_kernels import NAMES


class InductorEngine(Engine):
    """Compiles a module whose forward takes the spec's inputs and returns a tuple of the spec's outputs.

    On a CUDA device the module's convolution weights are converted to channels-last, in place. artifact: the code of
    such an engine, from `load_code`; without it, the first call of enqueue compiles (seconds to minutes). The first
    call must come before capture into a CUDA graph.
    """

    waiting: ClassVar[tuple[str, ...]] = NAMES

    def __init__(self, spec: EngineSpec, module: nn.Module, tuning: Tuning | None = None, artifact: Any = None) -> None:
        self.spec = spec
        self.module = channels_last(module)
        self.code = CompiledCode(self.module, tuning or Tuning(), artifact)
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        self.inputs, self.outputs = self.spec.pick(buffers)

    @torch.inference_mode()
    def enqueue(self, stream: Stream) -> None:
        with self._settings(stream):
            self.code(self.inputs, self.outputs)

    @torch.inference_mode()
    def save(self) -> bytes:
        """Return the code, which has run. Raise RuntimeError if PyTorch cannot save it."""
        with self._settings(None):
            return self.code.save(self.inputs, self.outputs)

    @contextmanager
    def _settings(self, stream: Stream) -> Iterator[None]:
        # Compiled code is valid for one TF32 setting: compile, load and run under the same one.
        with full_float32(), fused_attention(), torch.cuda.stream(stream):
            yield


class CompiledEngines:
    """Creates the engines of one model. Engines with equal specs share their code. code: artifacts by stage."""

    def __init__(self, code: Mapping[str, Any] | None = None) -> None:
        self.code = code or {}
        self.unbound: dict[EngineSpec, InductorEngine] = {}  # bound engines would keep a pipeline's buffers alive

    def __call__(self, spec: EngineSpec, module: nn.Module) -> InductorEngine:
        if spec not in self.unbound:
            self.unbound[spec] = InductorEngine(spec, module, artifact=self.code.get(spec.name))
        return copy(self.unbound[spec])
