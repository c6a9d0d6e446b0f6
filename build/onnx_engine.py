"""An engine that runs a stage's ONNX file in onnxruntime on the CPU. TensorRT builds from the same file."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from runtime.engine import Engine, Stream
from runtime.spec import EngineSpec

ERRORS = 3  # onnxruntime's log level for errors only; hides warnings about constants that it cannot fold


class OnnxEngine(Engine):
    """Buffers may be on any device: enqueue copies them. It ignores the stream and returns when the run is complete."""

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
