"""A small network with every layout and dtype of the stages, as an engine that the TensorRT stand-in runs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import runtime.tensorrt
from runtime.eager import EagerEngine
from runtime.scratch import allocate_scratch
from runtime.spec import EngineSpec, TensorSpec
from runtime.tensorrt import TensorRTEngine, layout
from tests.standin import tensorrt as standin

CPU = torch.device("cpu")
STREAM: Any = SimpleNamespace(cuda_stream=7)

X = TensorSpec("x", (2, 8, 4, 6), torch.float16, channels_last=True)
GAIN = TensorSpec("gain", (2, 3), torch.float32)
Y = TensorSpec("y", (2, 16, 4, 6), torch.float16, channels_last=True)
Z = TensorSpec("z", (2, 3, 4, 6), torch.float32, channels_last=True)
PICTURE = TensorSpec("picture", (2, 4, 6, 3), torch.uint8)
SPEC = EngineSpec("toy", (X, GAIN), (Y, Z, PICTURE))
LAYOUTS = {one.name: layout(one) for one in (*SPEC.inputs, *SPEC.outputs)}


class Toy(nn.Module):
    """Uses every layout and dtype of the stages."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 16, 3, padding=1).half()
        self.narrow = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = nn.functional.silu(self.wide(x))
        z = self.narrow(y.float()) * gain[:, :, None, None]
        return y, z, (z.permute(0, 2, 3, 1) * 50 + 128).clamp(0, 255).to(torch.uint8)


def export(module: nn.Module, spec: EngineSpec, path: Path, opset: int) -> Path:
    inputs = tuple(torch.zeros(one.shape, dtype=one.dtype) for one in spec.inputs)
    names = [one.name for one in spec.inputs], [one.name for one in spec.outputs]
    torch.onnx.export(
        module.eval(),
        inputs,
        path,
        dynamo=True,
        opset_version=opset,
        input_names=names[0],
        output_names=names[1],
        external_data=False,
        verbose=False,
    )
    return path


def aligned(spec: TensorSpec, offset: int = 0) -> Tensor:
    """Return a random buffer like those of runtime.spec.allocate on a GPU, whose allocator aligns them."""
    count = torch.Size(spec.shape).numel() * spec.dtype.itemsize
    memory = torch.zeros(count + 512, dtype=torch.uint8)
    start = -memory.data_ptr() % 256 + offset
    flat = memory[start : start + count].view(spec.dtype)
    if spec.channels_last:
        n, c, h, w = spec.shape
        buffer = flat.view(n, h, w, c).permute(0, 3, 1, 2)
    else:
        buffer = flat.view(spec.shape)
    return buffer.copy_(torch.randn(spec.shape))


def buffers_of(spec: EngineSpec) -> dict[str, Tensor]:
    return {one.name: aligned(one) for one in (*spec.inputs, *spec.outputs)}


def ready(spec: EngineSpec, serialized: bytes) -> tuple[TensorRTEngine, dict[str, Tensor]]:
    engine, buffers = TensorRTEngine(spec, serialized, CPU), buffers_of(spec)
    allocate_scratch([[engine]], CPU)
    engine.bind(buffers)
    return engine, buffers


def assert_equals_eager(engine: TensorRTEngine, buffers: dict[str, Tensor], module: nn.Module) -> None:
    for one in engine.spec.inputs:
        buffers[one.name].copy_(torch.randn(one.shape))
    expected = {name: buffer.clone() for name, buffer in buffers.items()}
    eager = EagerEngine(engine.spec, module)
    eager.bind(expected)
    eager.enqueue(None)
    engine.enqueue(STREAM)
    for one in engine.spec.outputs:
        tolerance = {"rtol": 0, "atol": 1} if one.dtype == torch.uint8 else {"rtol": 2e-3, "atol": 2e-3}
        torch.testing.assert_close(buffers[one.name], expected[one.name], **tolerance)
        assert buffers[one.name].float().std() > 0.05


def message(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def make_toy(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Toy().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def toy() -> nn.Module:
    return make_toy()


@pytest.fixture(scope="module")
def toy_file(toy: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(toy, SPEC, tmp_path_factory.mktemp("onnx") / "toy.onnx", 21)


@pytest.fixture(autouse=True)
def standin_is_tensorrt(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Install the stand-in as TensorRT, and accept the CPU as its device unless the test uses `real_device`."""
    monkeypatch.setitem(sys.modules, "tensorrt", standin)
    if "real_device" not in request.fixturenames:
        monkeypatch.setattr(runtime.tensorrt, "check_device", lambda device, library=None: None)
    yield
    assert not standin.to_fail, "a call that should have failed was not made"


@pytest.fixture
def real_device() -> None:
    """Keep the real check of the device."""


@pytest.fixture(scope="module")
def serialized(toy_file: Path) -> bytes:
    return standin.serialize(toy_file, LAYOUTS)


@pytest.fixture
def rtx_serialized(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return an engine of TensorRT for RTX. The stand-in replaces that library too."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", standin)
    return standin.serialize(toy_file, LAYOUTS, magic=b"vtrt")
