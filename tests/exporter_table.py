"""The ONNX exporter's table of operators, read once per process instead of at every export, which takes 0.7 s each."""

from functools import cache
from importlib.util import find_spec


def read_once() -> None:
    """Let all exports of this process share one table: the exporter only adds to it where a caller passes operators."""
    if find_spec("onnxscript") is None:
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]
