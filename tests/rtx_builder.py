"""The real builder of TensorRT for RTX, building for GPUs that are not in this machine."""

from pathlib import Path

from build.compile import Builder, compile_engine
from build.layers import Report
from runtime.spec import EngineSpec
from runtime.tensorrt_library import LIBRARIES
from tests.tensorrt_toys import CPU, SPEC

RTX = next(library for library in LIBRARIES if library.portable)
SM89 = Builder(RTX, CPU, (89,))


def build_toy(path: Path, spec: EngineSpec = SPEC, builder: Builder = SM89) -> tuple[bytes, Report]:
    return compile_engine(path, spec, builder)
