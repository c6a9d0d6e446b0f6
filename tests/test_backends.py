import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from runtime.backends import choose_backends, choose_device, choose_precision
from runtime.eager import EagerEngine
from runtime.spec import EngineSpec, TensorSpec, allocate
from runtime.tensorrt_library import LIBRARIES

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")

X = TensorSpec("x", (2, 3), torch.float32)
Y = TensorSpec("y", (2, 3), torch.float32)
TOTAL = TensorSpec("total", (2,), torch.float32)
SPEC = EngineSpec("scaler", (X, Y), (TOTAL,))


class Scaler(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor]:
        return ((2 * x + y).sum(dim=1),)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda: choose_device("tpu"), "device 'tpu': expected auto, cpu, cuda or cuda:N"),
        (lambda: choose_device("mps"), "device 'mps': expected auto, cpu, cuda or cuda:N"),
        (lambda: choose_device(""), "device '': expected auto, cpu, cuda or cuda:N"),
        (lambda: choose_device("cuda:99"), "device 'cuda:99': PyTorch .* sees .* CUDA devices here; use device cpu"),
        (lambda: choose_precision("fp64", CPU), "precision 'fp64': expected auto, fp32, fp16 or fp8"),
        (
            lambda: choose_precision("fp16", CPU),
            "precision 'fp16' needs a CUDA device, and the device is cpu: use fp32",
        ),
        (lambda: choose_backends("tensorrt", CPU), "TensorRT engines need a CUDA device: got cpu"),
        (lambda: choose_backends("fast", CPU), "backend 'fast': expected auto, eager, inductor or tensorrt"),
    ],
)
def test_a_bad_choice_is_one_sentence(choose: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        choose()
    assert str(caught.value).isprintable()


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_cuda_without_a_device(name: str) -> None:
    with pytest.raises(ValueError, match=f"device '{name}': PyTorch .* sees 0 CUDA devices here; use device cpu"):
        choose_device(name)


@no_cuda
def test_auto_without_cuda() -> None:
    assert choose_device("auto") == CPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_auto_with_cuda() -> None:
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:0") == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("auto", CPU, torch.float32),
        ("auto", CUDA, torch.float16),
        ("fp32", CUDA, torch.float32),
        ("fp32", CPU, torch.float32),
    ],
)
def test_precision(name: str, device: torch.device, dtype: torch.dtype) -> None:
    assert choose_precision(name, device).dtype == dtype


def test_auto_takes_the_fastest_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    classic, _, rtx = LIBRARIES
    for there, gpu, is_first in [([], 90, False), ([classic], 90, True), ([rtx], 90, False), ([rtx], 89, True)]:
        monkeypatch.setattr("runtime.backends.installed", lambda there=there: there)
        monkeypatch.setattr("runtime.backends.capability", lambda device, gpu=gpu: gpu)
        assert choose_backends("auto", CPU) == ("eager",)
        assert choose_backends("auto", cuda) == (*(["tensorrt"] if is_first else []), "inductor", "eager")
    monkeypatch.setattr("runtime.backends.check_device", lambda device: None)
    assert choose_backends("tensorrt", cuda) == ("tensorrt",)


def test_pick_is_in_the_order_of_the_spec() -> None:
    buffers = {"total": torch.zeros(2), "y": torch.ones(2, 3), "other": torch.zeros(1), "x": torch.zeros(2, 3)}
    inputs, outputs = SPEC.pick(buffers)
    assert [id(tensor) for tensor in inputs] == [id(buffers["x"]), id(buffers["y"])]
    assert [id(tensor) for tensor in outputs] == [id(buffers["total"])]


@pytest.mark.parametrize(
    ("name", "buffer", "got"),
    [
        ("y", None, "missing"),
        ("x", torch.zeros(3, 2), "torch.float32 [3, 2]"),
        ("x", torch.zeros(6), "torch.float32 [6]"),
        ("total", torch.zeros(2, dtype=torch.float16), "torch.float16 [2]"),
    ],
)
def test_pick_names_an_unfit_buffer(name: str, buffer: Tensor | None, got: str) -> None:
    buffers = allocate({"scaler": SPEC}, CPU)
    if buffer is None:
        del buffers[name]
    else:
        buffers[name] = buffer
    wanted = {"x": "torch.float32 [2, 3]", "y": "torch.float32 [2, 3]", "total": "torch.float32 [2]"}[name]
    with pytest.raises(ValueError, match=re.escape(f"engine scaler: buffer {name!r} is {got}, expected {wanted}")):
        SPEC.pick(buffers)


def test_allocate_shares_what_has_one_name() -> None:
    reader = EngineSpec("reader", (TOTAL,), (TensorSpec("mask", (4,), torch.int32),))
    buffers = allocate({"scaler": SPEC, "reader": reader}, CPU)
    assert {name: (tuple(b.shape), b.dtype) for name, b in buffers.items()} == {
        "x": ((2, 3), torch.float32),
        "y": ((2, 3), torch.float32),
        "total": ((2,), torch.float32),
        "mask": ((4,), torch.int32),
    }
    assert not any(b.any() for b in buffers.values())


@pytest.mark.parametrize("other", [TensorSpec("x", (2, 4), torch.float32), TensorSpec("x", (2, 3), torch.float16)])
def test_allocate_refuses_engines_that_disagree(other: TensorSpec) -> None:
    with pytest.raises(ValueError, match=r"engines disagree on 'x': .*\(2, 3\).* and .*name='x'"):
        allocate({"scaler": SPEC, "reader": EngineSpec("reader", (other,), ())}, CPU)


def test_eager_engine_reads_and_writes_its_buffers() -> None:
    engine = EagerEngine(SPEC, Scaler())
    buffers = allocate({"scaler": SPEC}, CPU)
    engine.bind(buffers)
    total = buffers["total"]
    for value in (1.0, 4.0):
        buffers["x"].fill_(value)
        buffers["y"].fill_(0.5)
        engine.enqueue(None)
        assert total.tolist() == [3 * (2 * value + 0.5)] * 2


def test_eager_engine_refuses_a_module_of_another_signature() -> None:
    engine = EagerEngine(EngineSpec("scaler", (X, Y), (TOTAL, TensorSpec("more", (1,), torch.float32))), Scaler())
    engine.bind(allocate({"scaler": engine.spec}, CPU))
    with pytest.raises(ValueError, match="shorter"):
        engine.enqueue(None)


def test_bind_refuses_unfit_buffers() -> None:
    with pytest.raises(ValueError, match="engine scaler: buffer 'x' is missing"):
        EagerEngine(SPEC, Scaler()).bind({})
