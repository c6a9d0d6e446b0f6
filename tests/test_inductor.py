"""A compiled engine agrees with its module, and a process that loads its engine files does not compile again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from runtime.channels_last import channels_last
from runtime.compiled_code import CompiledCode, Tuning, allow_other_layouts, libraries
from runtime.eager import EagerEngine
from runtime.inductor import CompiledEngines, InductorEngine
from runtime.spec import EngineSpec, TensorSpec, allocate
from tests.doubling import WRITTEN, double_into

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
compiler = os.environ.get("CXX", "g++")
needs_compiler = pytest.mark.skipif(
    shutil.which(compiler) is None, reason=f"Inductor needs a C++ compiler, found no {compiler}"
)

X = TensorSpec("x", (1, 3, 8, 8), torch.float32)
Y = TensorSpec("y", (1, 4, 8, 8), torch.float32)
MEAN = TensorSpec("mean", (1, 4), torch.float32)
SPEC = EngineSpec("toy", (X,), (Y, MEAN))


class Toy(nn.Module):
    """A convolution between pointwise operations, with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = nn.functional.silu(self.conv(x + 1))
        return y, y.mean(dim=(2, 3))


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (nn.functional.silu(x * self.factor),)


class Doubled(nn.Module):
    """Writes the first two of its results into buffers, if it gets some."""

    takes_out = True

    def forward(self, x: Tensor, out: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        first, second = out[:2] if out else (torch.empty_like(x), torch.empty_like(x))
        double_into([x.sin(), x.cos()], [first, second])
        return first, second, x + 1


SCALE = EngineSpec("scale", (TensorSpec("x", (6,), torch.float32),), (TensorSpec("y", (6,), torch.float32),))


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy().eval().requires_grad_(False)


def assert_equals_eager(engine: InductorEngine, buffers: dict[str, Tensor], seed: int) -> None:
    """Compare one run of the engine on new inputs with the eager module."""
    buffers["x"].copy_(torch.randn(X.shape, generator=torch.Generator().manual_seed(seed)))
    eager = EagerEngine(engine.spec, engine.module)
    expected = {name: torch.zeros_like(buffer) for name, buffer in buffers.items()} | {"x": buffers["x"]}
    eager.bind(expected)
    eager.enqueue(None)
    engine.enqueue(None)
    for spec in engine.spec.outputs:
        torch.testing.assert_close(buffers[spec.name], expected[spec.name])
        assert buffers[spec.name].any()


def nothing_compiled() -> AbstractContextManager[object]:
    return patch.object(CompiledCode, "_compile", side_effect=AssertionError("the module is compiled again"))


@needs_compiler
def test_further_pipelines_run_the_code_of_the_first() -> None:
    make, module = CompiledEngines(), toy()
    first, second = make(SPEC, module), make(SPEC, module)
    own, others = allocate({"toy": SPEC}, CPU), allocate({"toy": SPEC}, CPU)
    first.bind(own)
    second.bind(others)
    assert_equals_eager(first, own, seed=0)
    kept = own["y"].clone()
    with nothing_compiled():
        assert_equals_eager(second, others, seed=1)
    assert torch.equal(own["y"], kept), "the second engine wrote the first one's buffers"
    assert second.code is first.code
    assert make(replace(SPEC, name="other"), module).code is not first.code


@needs_compiler
def test_new_inputs_and_new_weights_need_no_compilation() -> None:
    module = toy()
    engine = InductorEngine(SPEC, module)
    buffers = allocate({"toy": SPEC}, CPU)
    engine.bind(buffers)
    assert_equals_eager(engine, buffers, seed=0)
    with nothing_compiled():
        assert_equals_eager(engine, buffers, seed=1)
        before = buffers["y"].clone()
        module.conv.weight.mul_(2)
        assert_equals_eager(engine, buffers, seed=1)
        module.load_state_dict(Toy().state_dict())
        assert_equals_eager(engine, buffers, seed=1)
        with torch.inference_mode():  # as in the pipeline
            assert_equals_eager(engine, buffers, seed=2)
    assert not torch.allclose(buffers["y"], before)


@needs_compiler
def test_results_written_into_buffers() -> None:
    """An op that writes into a stage's buffers does so in compiled code, without copies. The code can be saved."""
    x, *results = (TensorSpec(name, X.shape, torch.float32, channels_last=True) for name in ("x", "a", "b", "c"))
    spec = EngineSpec("doubled", (x,), tuple(results))
    engine = InductorEngine(spec, Doubled())
    with torch.inference_mode():  # as in the pipeline
        buffers = allocate({"doubled": spec}, CPU)
        engine.bind(buffers)
        assert_equals_eager(engine, buffers, seed=0)
    assert WRITTEN[-1] == [buffers[name].data_ptr() for name in "ab"]
    assert engine.save()


@needs_compiler
def test_buffers_made_in_inference_mode() -> None:
    engine = InductorEngine(SPEC, toy())
    with torch.inference_mode():
        buffers = allocate({"toy": SPEC}, CPU)
        engine.bind(buffers)
        assert_equals_eager(engine, buffers, seed=0)
    with nothing_compiled(), torch.inference_mode():
        assert_equals_eager(engine, buffers, seed=1)


@needs_compiler
def test_caller_may_have_set_tf32() -> None:
    engine = InductorEngine(SPEC, toy())
    buffers = allocate({"toy": SPEC}, CPU)
    engine.bind(buffers)
    assert_equals_eager(engine, buffers, seed=0)
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = True
        with nothing_compiled():
            assert_equals_eager(engine, buffers, seed=1)
    finally:
        matmul.allow_tf32 = before


@needs_compiler
def test_the_copy_into_the_buffer_is_no_kernel_of_its_own() -> None:
    from torch._inductor import config, metrics

    engine = InductorEngine(SCALE, Scale(2.0))
    buffers = allocate({"scale": SCALE}, CPU)
    engine.bind(buffers)
    metrics.reset()
    with config.patch(force_disable_caches=True):
        engine.enqueue(None)
    assert metrics.generated_kernel_count == 1


def test_bind_refuses_unfit_buffers() -> None:
    with pytest.raises(ValueError, match="engine toy: buffer 'x' is missing"):
        InductorEngine(SPEC, toy()).bind({})


def test_tuning_is_pytorchs_own_but_for_what_was_measured() -> None:
    from torch._inductor import config

    theirs = {name: getattr(config, name) for name in Tuning().options()}
    assert Tuning().options() == theirs | {"conv_1x1_as_mm": True}
    assert Tuning(max_autotune_gemm=True).options()["max_autotune_gemm"] is True


def test_channels_last_leaves_the_cpu_alone() -> None:
    module = toy()
    weight = module.conv.weight
    assert channels_last(module) is module
    assert module.conv.weight is weight
    assert weight.is_contiguous()


def test_views_copy_where_a_layout_differs() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(lambda x: x.view(6))(torch.zeros(2, 3))
    other = torch.arange(6).reshape(3, 2).T
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        traced(other)
    allow_other_layouts(traced)
    assert torch.equal(traced(other), other.flatten())


PROCESS = """
import json, os, pickle, sys
from pathlib import Path

from runtime.compiled_code import install, libraries, load_code
from runtime.inductor import InductorEngine
from runtime.spec import allocate
from tests.test_inductor import CPU, SPEC, nothing_compiled, toy

file, saves = Path(sys.argv[1]), sys.argv[2] == "save"
code, needed = (b"", {}) if saves else pickle.loads(file.read_bytes())
install(needed)
engine = InductorEngine(SPEC, toy(), artifact=None if saves else load_code(code))
buffers = allocate({"toy": SPEC}, CPU)
buffers["x"].fill_(0.5)
engine.bind(buffers)
if saves:
    engine.enqueue(None)
    file.write_bytes(pickle.dumps((engine.save(), libraries(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])))))
else:
    with nothing_compiled():
        engine.enqueue(None)
print(json.dumps(buffers["mean"].tolist()))
"""


@needs_compiler
def test_a_fresh_process_loads_the_code_and_compiles_nothing(tmp_path: Path) -> None:
    def process(task: str) -> list[float]:
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, str(tmp_path / "code"), task],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"cache_{task}")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        mean: list[float] = json.loads(done.stdout.splitlines()[-1])
        return mean

    assert process("save") == process("load")
    assert libraries(tmp_path / "cache_save")
    assert libraries(tmp_path / "cache_load") == libraries(tmp_path / "cache_save"), "something was compiled again"


@pytest.mark.gpu
def test_on_cuda_in_half_precision() -> None:
    """Channels-last weights, a separate stream, and a CUDA graph whose replay uses new inputs and new weights."""
    x, y, mean = (replace(spec, dtype=torch.float16) for spec in (X, Y, MEAN))
    spec, module = EngineSpec("toy", (x,), (y, mean)), toy().half().cuda()
    engine = InductorEngine(spec, module)
    weight = module.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    buffers = allocate({"toy": spec}, torch.device("cuda"))
    engine.bind(buffers)
    stream = torch.cuda.Stream()
    engine.enqueue(stream)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with nothing_compiled(), torch.cuda.graph(graph, stream=stream):
        engine.enqueue(stream)
    for factor in (1, 2):
        buffers["x"].normal_()
        weight.mul_(factor)
        graph.replay()
        torch.cuda.synchronize()
        for name, expected in zip(("y", "mean"), module(buffers["x"]), strict=True):
            torch.testing.assert_close(buffers[name], expected, rtol=1e-2, atol=1e-2)
