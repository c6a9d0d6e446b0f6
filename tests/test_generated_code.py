"""Code that Inductor generated for a GPU, recorded and run without Inductor."""

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from runtime.generated_code import GeneratedCode, Kernel, Launch, is_packed, pack
from runtime.record_code import Recorder, UnknownForm, check_extern, find_call, record, unknown_names

ROOT = Path(__file__).resolve().parent.parent
SOURCE = """
from torch._inductor.select_algorithm import extern_kernels

class Runner:
    def call(self, args):
        a, out = args
        args.clear()
        assert_size_stride(a, (2, 2), (2, 1))
        b = reinterpret_tensor(a, (4,), (1,), 0)
        doubled.run(b, out, 4, stream=5)
        extern_kernels.mm(a, a, out=out)
        return ()

call = Runner().call
"""


def test_the_function_of_a_generated_module() -> None:
    function = find_call(SOURCE)
    assert unknown_names(function) == ["doubled"]
    check_extern(function)
    calls: list[tuple[Any, ...]] = []
    doubled = SimpleNamespace(run=lambda *arguments, stream: calls.append((arguments, stream)))
    a, out = torch.arange(4.0).view(2, 2), torch.zeros(2, 2)
    GeneratedCode(ast.unparse(function), {"doubled": doubled})(a, out)
    assert torch.equal(out, a @ a)
    ((b, given, number), stream) = calls[0]
    assert (given is out, b.shape, b.data_ptr(), number, stream) == (True, (4,), a.data_ptr(), 4, 5)


def test_addresses_that_kernels_were_not_compiled_for() -> None:
    code = GeneratedCode("def call(args): args.clear()", {})
    code(torch.zeros(8), torch.zeros(8)[4:])
    with pytest.raises(ValueError, match="got argument 1 at an address that is not a multiple of 16 bytes"):
        code(torch.zeros(8), torch.zeros(8)[1:])


@pytest.mark.parametrize("name", ["_mm_plus_mm", "conv3d"])
def test_other_extern_kernels_are_refused(name: str) -> None:
    with pytest.raises(UnknownForm, match=rf"calls extern_kernels\.{name}"):
        check_extern(find_call(SOURCE.replace("extern_kernels.mm", f"extern_kernels.{name}")))


def test_a_module_without_the_function() -> None:
    with pytest.raises(UnknownForm, match="no function `call`"):
        find_call("def run(args): pass")


@pytest.mark.parametrize("count", [0, 2])
def test_several_modules_are_refused(count: int) -> None:
    with pytest.raises(UnknownForm, match=f"got {count} generated modules"):
        record([ModuleType("generated")] * count, [])


@pytest.mark.parametrize("other", [None, SimpleNamespace(launchers=[]), SimpleNamespace(launchers=[print])])
def test_other_kernels_are_refused(other: Any) -> None:
    with pytest.raises(UnknownForm, match="is not a Triton kernel that PyTorch launches itself"):
        Recorder(other)


class Compiled:
    """Stands for a kernel that PyTorch launches."""

    name, hash, num_warps, shared = "doubled", "abc", 4, 512
    has_global_scratch, has_profile_scratch = True, True

    def __init__(self, types: str) -> None:
        self.arg_tys, self.launched = types, list[tuple[Any, ...]]()

    def run(self, *arguments: Any) -> None:
        self.launched.append(arguments)


def autotuner(kernel: Compiled) -> Any:
    """Return what Inductor's wrapper calls: it drops an argument and computes the grid."""
    scope: dict[str, Any] = {"runner": kernel.run}
    exec("def launcher(x, unused, y, n, stream): runner(n // 4, 1, 1, stream, x, y, n)", scope)
    scope["launcher"]._is_static = True
    return SimpleNamespace(launchers=[scope["launcher"]], run=scope["launcher"])


def test_a_recorded_kernel() -> None:
    kernel = Compiled("OOi")
    recorder = Recorder(autotuner(kernel))
    x, unused, y = torch.zeros(3, 1).unbind()
    for n in (8, 16, 8):
        recorder.run(x, unused, y, n, stream=7)
    assert [call[:4] for call in kernel.launched] == [(2, 1, 1, 7), (4, 1, 1, 7), (2, 1, 1, 7)]
    assert kernel.launched[0][4] is x
    launches = [Launch([n], [n // 4, 1, 1], [(True, 0), (True, 2), (False, n)]) for n in (8, 16)]
    assert recorder.kernel() == Kernel("doubled", "abc.cubin", 4, 512, "OOiOO", launches)


def test_unknown_types_of_parameters_are_refused() -> None:
    with pytest.raises(UnknownForm, match=r"the kernel doubled has parameters of the types \['h'\]"):
        Recorder(autotuner(Compiled("OOh"))).kernel()


def test_packed_code_is_recognized() -> None:
    assert is_packed(pack("def call(args): pass", {}, {}))
    assert not is_packed(pickle.dumps("code"))


def test_layers_and_ops_need_no_compiler() -> None:
    """Engine files are loaded without importing Triton and Inductor, which takes seconds."""
    script = (
        "import sys, plugins.layers, runtime.inductor, cldm.compiled_files;"
        "print([name for name in ('triton', 'torch._inductor', 'torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PROCESS = """
import pickle, sys
from pathlib import Path
import torch
from runtime.compiled_code import load_code
from runtime.inductor import InductorEngine
from runtime.spec import allocate
from tests.test_inductor import SPEC, toy

file = Path(sys.argv[1])
saved = pickle.loads(file.read_bytes()) if file.exists() else None
torch.manual_seed(0)
engine = InductorEngine(SPEC, toy().cuda(), artifact=saved and load_code(saved))
buffers = allocate({"toy": SPEC}, torch.device("cuda"))
buffers["x"].copy_(torch.linspace(-1, 1, buffers["x"].numel()).view(buffers["x"].shape))
engine.bind(buffers)
engine.enqueue(None)
if not saved:
    file.write_bytes(pickle.dumps(engine.save()))
print([name for name in ("triton", "torch._inductor") if name in sys.modules])
print([buffers[one.name].double().cpu().flatten().tolist() for one in SPEC.outputs])
"""


@pytest.mark.gpu
def test_a_fresh_process_needs_no_compiler(tmp_path: Path) -> None:
    def process() -> list[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-c", PROCESS, str(tmp_path / "code")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-2:]

    compiled, loaded = process(), process()
    assert compiled[0] == "['triton', 'torch._inductor']"
    assert loaded[0] == "[]"
    assert loaded[1] == compiled[1]


@pytest.mark.gpu
def test_numbers_that_were_not_recorded(tmp_path: Path) -> None:
    from runtime.generated_code import LoadedKernel
    from runtime.record_code import new_modules

    def double(x: Tensor) -> Tensor:
        return x * 2 + 1

    x = torch.randn(1000, device="cuda")
    with new_modules() as modules:
        torch.compile(double)(x)
    assert modules
    (tuner,) = (one for one in vars(modules[0]).values() if hasattr(one, "launchers"))
    recorder, result = Recorder(tuner), torch.empty_like(x)
    stream = torch.cuda.current_stream().cuda_stream
    recorder.run(x, result, 1000, stream=stream)
    kernel = LoadedKernel(recorder.kernel(), recorder.cubin())
    again = torch.empty_like(x)
    kernel.run(x, again, 1000, stream=stream)
    assert torch.equal(again, double(x))
    assert torch.equal(again, result)
    with pytest.raises(KeyError):
        kernel.run(x, again, 999, stream=stream)
