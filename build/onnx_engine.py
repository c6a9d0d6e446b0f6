"""An engine that runs a stage's ONNX file by onnxruntime on the CPU: what TensorRT is given, executed by another."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from runtime.engine import Engine, Stream
from runtime.spec import EngineSpec

ERRORS = 3  # onnxruntime's level of its log without the warnings of what it could not fold


class OnnxEngine(Engine):
    """Its buffers may lie on any device; enqueue copies, and returns when all is done."""

    def __init__(self, spec: EngineSpec, path: Path) -> None:
        self.spec = spec
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        self.inputs, self.outputs = self.spec.pick(buffers)

    def enqueue(self, stream: Stream) -> None:
        fed = {spec.name: tensor.cpu().numpy() for spec, tensor in zip(self.spec.inputs, self.inputs, strict=True)}
        names = [spec.name for spec in self.spec.outputs]
        for buffer, result in zip(self.outputs, self.session.run(names, fed), strict=True):
            buffer.copy_(torch.from_numpy(result))
