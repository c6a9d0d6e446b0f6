"""What runs on GPUs without Hopper's features: PTX for compute capability 8.0, which every newer GPU can run."""

import ctypes
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import plugins.long_attention.op
import plugins.product.compile
import plugins.product.large_tiles
import plugins.product.many_rows
import plugins.short_attention.op
import plugins.update.op
from benchmarks.group_norm import SHAPES
from build.choices import Asking, _asking, choose
from build.workers import compile_stage
from cldm.engine_files import Target
from plugins.choices import CHOICES
from plugins.group_norm.layer import FusedGroupNorm
from plugins.group_norm.op import group_norm
from plugins.layers import use_kernels
from plugins.nvrtc import call, compile_ptx
from plugins.phase_upsampling import PhaseUpsample
from plugins.split_k_convolution import SplitKConv2d
from plugins.update.op import load_kernel, plain_update, update
from tests.hopper import check
from tests.norm_maps import EPS, FORMATS, ODD, error, tensors, torchs
from tests.test_update import arguments

pytestmark = pytest.mark.gpu
CAPABILITY = (8, 0)
TARGET = Target("small", 256, 384, 1, "fp16")
CACHED = (
    *(plugins.short_attention.op.runs_on, plugins.long_attention.op.runs_on, plugins.product.compile.runs_on),
    *(plugins.product.large_tiles.runs_on, plugins.product.many_rows.runs_on, load_kernel),
)
FOR_HOPPER = (
    *("convolution.layer", "zero_convolutions.layer"),
    *("short_attention.op", "hopper.cuda_kernel", "product.compile"),
)


@pytest.fixture(autouse=True)
def nothing_cached() -> Iterator[None]:
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


@pytest.fixture
def ptx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the GPU look like one of CAPABILITY, and let the driver compile our PTX for it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: CAPABILITY)
    for module in (plugins.group_norm.op, plugins.update.op):
        monkeypatch.setattr(module, "cubin", compile_ptx)


@pytest.fixture
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers and the build ignore the features of a Hopper GPU. Inductor compiles for the GPU that is there."""
    for module in FOR_HOPPER:
        monkeypatch.setattr(f"plugins.{module}.HOPPER", None)
    monkeypatch.setattr("runtime.compiled_code.TOGETHER", (99, 0))
    for module in ("op", "layer"):
        monkeypatch.setattr(f"plugins.group_norm.{module}.has_clusters", lambda device: False)


@pytest.mark.usefixtures("ptx")
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("shape", [*SHAPES, *ODD], ids=str)
def test_group_norm(shape: tuple[int, int, int, int, int], memory: torch.memory_format) -> None:
    x, weight, bias = (tensor.cuda() for tensor in tensors(*shape[:4], memory))
    options = shape[4], EPS, True
    true = torchs(x.double(), weight.double(), bias.double(), *options)
    assert error(group_norm(x, weight, bias, *options), true) <= 2 * error(torchs(x, weight, bias, *options), true)


@pytest.mark.usefixtures("ptx")
@pytest.mark.parametrize("taps", [1, 3])
def test_the_update(taps: int) -> None:
    ours, plain = (arguments(3, taps, 5, "cuda") for _ in range(2))
    update(*ours)
    plain_update(*plain)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("h", "w", "channels", "outs"), [(8, 12, 1280, 1280), (5, 7, 64, 128), (16, 24, 640, 640)])
def test_split_convolution(h: int, w: int, channels: int, outs: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(h)
    x = torch.randn(2, channels, h, w, generator=generator).half().cuda()
    weight = (torch.randn(outs, channels, 3, 3, generator=generator) * (9 * channels) ** -0.5).half().cuda()
    parts = run_parts(x.permute(0, 2, 3, 1).contiguous(), weight.permute(0, 2, 3, 1).contiguous(), stride, 4)
    true = F.conv2d(x.double(), weight.double(), stride=stride, padding=1)
    half = F.conv2d(x, weight, stride=stride, padding=1)
    check(parts.sum(dim=0).half().permute(0, 3, 1, 2), half, true)


def run_parts(x: Tensor, weight: Tensor, stride: int, parts: int) -> Tensor:
    """Do the same as `convolution_parts`, with PTX for compute capability 8.0."""
    triton = pytest.importorskip("triton")
    from cuda.bindings import driver
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from plugins import split_k_tiles as tiles
    from plugins.split_k_kernel import _convolution as kernel

    n, h, w, channels = x.shape
    size = n, -(-h // stride), -(-w // stride), len(weight)
    pixels = size[0] * size[1] * size[2]
    result = torch.empty(parts, *size, device="cuda")
    constants = {"STRIDE": stride, "ROWS": tiles.ROWS, "COLUMNS": tiles.COLUMNS, "DEPTH": tiles.DEPTH}
    pointers = {"x": "*fp16", "weight": "*fp16", "result": "*fp32"}
    signature: dict[str, str] = {
        name: "constexpr" if name in constants else pointers.get(name, "i32") for name in kernel.arg_names
    }
    places: dict[Any, Any] = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    options = {"num_warps": tiles.WARPS, "num_stages": tiles.STAGES}
    built = triton.compile(ASTSource(kernel, signature, places), target=GPUTarget("cuda", 80, 32), options=options)
    assert ".target sm_80" in built.asm["ptx"]
    function = call(
        driver.cuModuleGetFunction,
        call(driver.cuModuleLoadData, built.asm["ptx"].encode() + b"\0"),
        built.metadata.name.encode(),
    )
    shared = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    call(driver.cuFuncSetAttribute, function, shared, built.metadata.shared)
    numbers = h, w, *size[1:3], channels, len(weight), pixels, parts
    values = *(one.data_ptr() for one in (x, weight, result)), *numbers, 0, 0
    types = *[ctypes.c_void_p] * 3, *[ctypes.c_int] * len(numbers), *[ctypes.c_void_p] * 2
    grid = len(weight) // tiles.COLUMNS, -(-pixels // tiles.ROWS), parts
    stream = torch.cuda.current_stream().cuda_stream
    threads = 32 * tiles.WARPS
    call(driver.cuLaunchKernel, function, *grid, threads, 1, 1, built.metadata.shared, stream, (values, types), 0)
    torch.cuda.synchronize()
    return result


@pytest.mark.usefixtures("no_features")
def test_layers_that_ask() -> None:
    """Each is compiled and timed with each answer, also norms that add a shift."""
    asking = {(type(one.layer), len(one.inputs)): one for one in _asking(TARGET, "decoder")}
    layers = [asking[FusedGroupNorm, 1], asking[FusedGroupNorm, 2], asking[PhaseUpsample, 1]]
    for one in (*layers, convolution()):
        times = one.times_ms()
        assert times.keys() == {*one.choice.answers}
        assert min(times.values()) > 0
        assert not CHOICES


@pytest.mark.usefixtures("no_features")
@pytest.mark.parametrize("name", ["encoder", "vae"])
def test_a_stage_without_the_features(name: str) -> None:
    """Inductor compiles it, with PyTorch's norms, whose results may have another layout than in the trace."""
    assert compile_stage(TARGET, name, "cuda", {}).compiled.code


def convolution() -> Asking:
    torch.manual_seed(0)
    layer = nn.Conv2d(1280, 1280, 3, padding=1).cuda().half().requires_grad_(False)
    x = torch.randn(2, 1280, 8, 12, device="cuda").half().contiguous(memory_format=torch.channels_last)
    half, true = layer(x), deepcopy(layer).double()(x.double())
    use_kernels(layer)
    assert type(layer) is SplitKConv2d
    asked = Asking(layer.choice(x), layer, (x,), torch.empty_like(half))
    for answer in asked.choice.answers:
        CHOICES[asked.choice.question] = answer
        with torch.inference_mode():
            compiled = torch.compile(layer, fullgraph=True)
            check(compiled(x), half, true)
            torch.compiler.reset()
    CHOICES.clear()
    return asked


@pytest.mark.usefixtures("no_features")
def test_the_fastest_answer_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("build.choices.STAGES", ("hint",))
    asked = convolution()
    monkeypatch.setattr("build.choices._asking", lambda target, name: [asked])
    monkeypatch.setattr(Asking, "times_ms", lambda one: {0: 2.0, one.choice.answers[-1]: 1.0})
    assert choose(TARGET) == {asked.choice.question: asked.choice.answers[-1]}
