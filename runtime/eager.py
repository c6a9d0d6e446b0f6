"""An engine that runs the torch module itself, on any device."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from runtime.engine import Engine, Stream
from runtime.spec import EngineSpec


class EagerEngine(Engine):
    """Runs a module whose forward takes the spec's inputs and returns a tuple of the spec's outputs."""

    def __init__(self, spec: EngineSpec, module: nn.Module) -> None:
        self.spec = spec
        self.module = module
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        self.inputs, self.outputs = self.spec.pick(buffers)

    @torch.inference_mode()
    def enqueue(self, stream: Stream) -> None:
        with torch.cuda.stream(stream):  # None keeps the current stream
            for buffer, result in zip(self.outputs, self.module(*self.inputs), strict=True):
                buffer.copy_(result)
