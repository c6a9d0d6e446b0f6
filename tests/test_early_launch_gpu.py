"""In a graph, our kernels wait for the previous kernel, even for one that lets them start long before it writes."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")

from cuda.bindings import driver

from plugins.convolution.op import convolution
from plugins.group_norm.joined import group_norm_joined
from plugins.group_norm.op import group_norm
from plugins.hopper.compile import HOPPER
from plugins.long_attention.op import long_attention
from plugins.nvrtc import call, cubin
from plugins.product.op import norm_product, product, product_stats
from plugins.update.op import update
from plugins.zero_convolutions.op import empty, zero_convolutions
from runtime.compiled_code import CompiledCode, Tuning
from runtime.early_launch import OLDEST
from runtime.graph import Graph
from runtime.waiting_kernels import NAMES as OF_INDUCTOR
from tests.nvrtc import require_nvrtc

pytestmark = pytest.mark.gpu
SOURCE = """
// Copies values, a millisecond after it has let the next kernel start.
extern "C" __global__ void late(unsigned short* to, const unsigned short* from, int values) {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start) :: "memory");
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now) :: "memory"); while (now - start < 1000000);
    for (int i = threadIdx.x; i < values; i += blockDim.x) to[i] = from[i];
}
// Copies values, but does not wait, in spite of its name.
extern "C" __global__ void canny2image_hasty(unsigned short* to, const unsigned short* from, int values) {
    for (int i = threadIdx.x; i < values; i += blockDim.x) to[i] = from[i];
}
"""
Copy = Callable[[str, Tensor, Tensor], None]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Return a function that copies a float16 tensor with the kernel of a name."""
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < OLDEST:
        pytest.skip("this GPU has no programmatic edges")
    require_nvrtc()
    file = Path(tmp_path_factory.mktemp("late")) / "late.cu"
    file.write_text(SOURCE)
    torch.empty(1, device="cuda")  # makes PyTorch's context current
    module = call(driver.cuModuleLoadData, cubin(file, (), 10 * major + minor))

    def run(name: str, to: Tensor, source: Tensor) -> None:
        kernel = call(driver.cuModuleGetFunction, module, name.encode())
        values: Any = (to.data_ptr(), source.data_ptr(), to.numel()), (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
        stream = torch.cuda.current_stream().cuda_stream
        call(driver.cuLaunchKernel, kernel, 1, 1, 1, 256, 1, 1, 0, stream, values, 0)

    return run


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).half().cuda()


def maps(*shape: int) -> Tensor:
    return random(*shape).contiguous(memory_format=torch.channels_last)


def both(function: Callable[[Tensor], Tensor], source: Tensor, copy: Copy) -> tuple[Tensor, Tensor, int]:
    """Return the result for a late copy of the source in a graph; that of the source; and the graph's `early`."""
    stream, x, results = torch.cuda.Stream(), torch.zeros_like(source), list[Tensor]()

    def work() -> None:
        copy("late", x.view(torch.float16), source.view(torch.float16))
        results.append(function(x))

    expected = function(source).clone()
    stream.wait_stream(torch.cuda.current_stream())
    graph = Graph(work, stream, OF_INDUCTOR)
    graph.launch()
    stream.synchronize()
    return results[0], expected, graph.early


def cases() -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Return functions of our kernels, and inputs."""
    square, weight, filters, row, affine = (
        random(128, 128),
        random(128, 64),
        maps(64, 64, 3, 3),
        random(128),
        random(64),
    )
    stats, sums = random(128, 1, 2).float(), random(128).float()
    norm, one, point = (affine, affine, 8, 1e-5, True), random(2, 1), maps(64, 64, 1, 1)

    def zero_convolution(x: Tensor) -> Tensor:
        results = empty([x], 2)
        zero_convolutions([x], [point], [affine], one, results)
        return results[0]

    return {
        "norm": (lambda x: group_norm(x, *norm), maps(2, 64, 16, 24)),
        "norm, shift": (lambda x: group_norm(filters, *norm, x), random(1, 64)),
        "norm, 2 kernels": (lambda x: group_norm(x, affine, affine, 1, 1e-5, True), maps(1, 64, 256, 256)),
        "norm, two maps": (
            lambda x: group_norm_joined(x, x, x, row, row, 8, 1e-5, True)[1],
            maps(2, 64, 16, 24),
        ),
        "convolution": (lambda x: convolution(x, filters, affine), maps(2, 64, 8, 12)),
        "convolution, residual": (lambda x: convolution(filters, filters, affine, x), maps(64, 64, 3, 3)),
        "convolution, 3 kernels": (
            lambda x: convolution(group_norm(convolution(x, filters), *norm), filters),
            maps(2, 64, 8, 12),
        ),
        "product": (lambda x: product(x, weight, row), random(128, 64)),
        "product, residual": (lambda x: product(weight, weight, row, x), random(128, 128)),
        "product, gated": (lambda x: product(x, weight, row, gated=True), random(96, 64)),
        "product, statistics": (lambda x: product_stats(x, weight, row, square)[1], random(128, 64)),
        "zero convolutions": (zero_convolution, maps(1, 64, 4, 6)),
        "attention": (lambda x: long_attention(x, x, x, 2), random(2, 384, 80)),
        "product, norm": (lambda x: norm_product(weight, x, weight, sums, sums, 1.0), stats.square()),
    }


NAMES = [
    "norm", "norm, shift", "norm, 2 kernels", "norm, two maps", "convolution", "convolution, residual",
    "convolution, 3 kernels", "product", "zero convolutions", "product, residual", "product, gated",
    "product, statistics", "product, norm", "attention",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_waits(name: str, copy: Copy) -> None:
    if not name.startswith("norm") and torch.cuda.get_device_capability() != HOPPER:
        pytest.skip("the kernel is for other GPUs")
    got, expected, early = both(*cases()[name], copy)
    assert early == next((int(part[0]) for part in name.split(", ") if "kernels" in part), 1)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("reduction", [False, True])
def test_a_kernel_of_inductor_waits(reduction: bool, copy: Copy) -> None:
    code = CompiledCode(InTuple(nn.Softmax(1) if reduction else nn.Softsign()), Tuning())
    result = random(8, 2048)

    def function(x: Tensor) -> Tensor:
        code([x], [result])
        return result

    got, expected, early = both(function, random(8, 2048), copy)
    assert early >= 1, "a reduction may be two kernels"
    assert torch.equal(got, expected)


class InTuple(nn.Module):
    """Returns what another module returns in a tuple, as stages do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.module(x),)


def test_a_kernel_that_does_not_wait_would_be_found(copy: Copy) -> None:
    def function(x: Tensor) -> Tensor:
        result = torch.empty_like(x)
        copy("canny2image_hasty", result, x)
        return result

    got, expected, early = both(function, random(128), copy)
    assert early == 1
    assert not got.any()
    assert expected.any()


def test_memory_that_the_previous_kernel_reads(copy: Copy) -> None:
    """A kernel that writes into its input must not start early: the previous kernel may still read it."""
    x = torch.ones(1, 4, 8, 8, device="cuda")
    others = x.clone(), torch.cat([x, x]), x[:, 0, 0, 0], torch.ones(3, 1, device="cuda"), x[None].clone()
    before, read, stream = x.clone(), torch.zeros_like(x), torch.cuda.Stream()
    update(before.clone(), *others)

    def work() -> None:
        copy("late", read.view(torch.float16), x.view(torch.float16))
        update(x, *others)

    stream.wait_stream(torch.cuda.current_stream())
    graph = Graph(work, stream)
    graph.launch()
    stream.synchronize()
    assert graph.early == 1
    assert torch.equal(read, before)
    assert not torch.equal(x, before)
