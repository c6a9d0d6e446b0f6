"""An engine that runs a stage's ONNX file by onnxruntime on the CPU: what TensorRT is given, executed by another."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from runtime.engine import Stream
from runtime.spec import EngineSpec


class OnnxEngine:
    def __init__(self, spec: EngineSpec, path: Path) -> None:
        self.spec = spec
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        self.inputs, self.outputs = self.spec.pick(buffers)

    def enqueue(self, stream: Stream) -> None:
        fed = {spec.name: tensor.numpy() for spec, tensor in zip(self.spec.inputs, self.inputs, strict=True)}
        names = [spec.name for spec in self.spec.outputs]
        for buffer, result in zip(self.outputs, self.session.run(names, fed), strict=True):
            buffer.copy_(torch.from_numpy(result))
