"""Compilation and launch of the kernels for Hopper, without a GPU."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plugins.convolution.compile import ConvolutionKernel, check_compiler
from plugins.convolution.op import run
from plugins.convolution.tiles import Sizes, Tile
from plugins.hopper import compile as compilation
from plugins.hopper import launch, parameters
from plugins.hopper.compile import Kernel, cubin, with_cluster
from plugins.machine_code import KERNELS
from plugins.nvrtc import KernelError

SMALL = ConvolutionKernel(Sizes(2, 4, 6, 128, 64), Tile(4, 2, 8, 64, stages=6, parts=2), bias=True, residual=False)
NAME = SMALL.NAME


class Driver:
    """Stands in for the CUDA driver: writes the rank into a tensor map, and the address into its first bytes."""

    status = 0

    def cuTensorMapEncodeTiled(self, encoded: Any, kind: int, rank: int, address: Any, *arrays: Any) -> int:
        assert ctypes.addressof(encoded) % 64 == 0, "the driver refuses other addresses"
        self.arrays = [list(one) for one in arrays[:4]]
        ctypes.memset(encoded, rank, 128)
        return self.cuTensorMapReplaceAddress(encoded, address)

    def cuTensorMapReplaceAddress(self, encoded: Any, address: ctypes.c_void_p) -> int:
        ctypes.memmove(encoded, ctypes.addressof(address), 8)
        return self.status


def maps(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.float16).contiguous(memory_format=torch.channels_last)


def test_parameters_of_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gets the values of its PTX's parameters, in order."""
    monkeypatch.setattr(launch, "PARAMETERS", {})
    monkeypatch.setattr(parameters, "_driver", driver := Driver)
    monkeypatch.setattr(launch, "_load", lambda kernel, device: (kernel, device))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77))
    read: list[object] = []

    def call(function: object, loaded: object, *numbers: int) -> None:
        assert loaded == (SMALL, 3)
        assert numbers[:8] == (1 * 1 * 1 * 1 * 2, 1, 1, 128, 1, 1, SMALL.tile.shared, 77)
        addresses = (ctypes.c_void_p * len(SMALL.parameters)).from_address(numbers[8])
        for kind, place in zip(SMALL.parameters, addresses, strict=True):
            size = {"align 64 .b8": 128, "u32": 4}.get(kind, 8)
            data = ctypes.string_at(place, size)
            address, rank = int.from_bytes(data[:8], "little"), set(data[8:])
            read.append((address, *rank) if size == 128 else address)

    monkeypatch.setattr(launch, "call", call)
    for _ in range(2):  # the second launch takes the parameters of the first, with its own addresses
        x, weight = maps(2, 128, 4, 6), maps(64, 128, 3, 3)
        bias, result = torch.zeros(64), maps(2, 64, 4, 6)
        run(SMALL, x, weight, bias, None, result)
        pixels = [(x.data_ptr(), 4), 4, 2, 6, 128, 768, 3072, 128, 1]
        assert read[:5] == [(weight.data_ptr(), 2), 64, 1152, 1152, 1]
        assert read[5:23] == pixels * 2
        assert read[23:] == [bias.data_ptr(), 0, 0, result.data_ptr(), 0, 0]
        read.clear()
    assert len(launch.PARAMETERS) == 1
    monkeypatch.setattr(driver, "status", 1)
    with pytest.raises(KernelError, match=r"cuTensorMapReplaceAddress failed with status 1 for \[64, 128, 3, 3\]"):
        run(SMALL, x, weight, bias, None, result)
    launch.PARAMETERS.clear()
    with pytest.raises(KernelError, match=r"cuTensorMapEncodeTiled failed with status 1 for shape \[64, 1152\]"):
        run(SMALL, x, weight, bias, None, result)


def test_the_drivers_order_of_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(parameters, "_driver", lambda: driver)
    parameters.tensor_map(1024, (4, 2, 6, 128), (768, 3072, 128, 1), [4, 2, 8, 64])
    assert driver.arrays == [[128, 6, 2, 4], [256, 6144, 1536], [64, 8, 2, 4], [1, 1, 1, 1]]


@pytest.fixture
def no_kernels() -> Iterator[None]:
    """Forget compiled kernels, before and after."""
    KERNELS.clear()
    yield
    KERNELS.clear()


@pytest.mark.usefixtures("no_kernels")
def test_each_kernel_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Kernel] = []

    def compile_kernel(kernel: Kernel) -> bytes:
        compiled.append(kernel)
        return f"cubin {len(compiled)}".encode()

    monkeypatch.setattr(compilation, "compile_kernel", compile_kernel)
    other = replace(SMALL, bias=False)
    assert [cubin(kernel) for kernel in (SMALL, other, SMALL)] == [b"cubin 1", b"cubin 2", b"cubin 1"]
    assert compiled == [SMALL, other]


def test_the_size_of_clusters() -> None:
    ptx = ".entry a()\n.reqntid 128\n{\n// cluster 4\nbarrier.cluster\n}"
    assert ".reqntid 128\n.explicitcluster\n.reqnctapercluster 4\n{" in with_cluster(ptx)
    assert with_cluster(ptx.replace("// cluster 4", "")) == ptx.replace("// cluster 4", "")


def built() -> tuple[str, dict[str, Any]]:
    """Return the parts of PTX, and metadata, that compilations are checked for."""
    parameters = [f".param .{kind} {NAME}_param_{index}" for index, kind in enumerate(SMALL.parameters)]
    ptx = ".extern .shared .align 16 .b8 global_smem[];\n.entry (" + ",\n".join(parameters) + ")\n.reqntid 128\n"
    ptx += "griddepcontrol.wait;\ncp.async.bulk\n"
    maps = [{"swizzle": 3, "elem_type": 6, "block_size": box, "elem_size": 2} for box in SMALL.boxes]
    scratch = {"global_scratch_size": 0, "profile_scratch_size": 0}
    return with_cluster(ptx + "// cluster 2"), {"shared": 200_000, "tensordesc_meta": maps, **scratch}


@pytest.mark.parametrize(
    ("old", "new", "change", "name"),
    [
        ("reqnctapercluster 2", "reqnctapercluster 4", {}, "clusters"),
        ("reqnctapercluster", "other", {}, "clusters"),
        ("global_smem[]", "shared_memory[]", {}, "the name of shared memory"),
        (".param .u32", ".param .u64", {}, "parameters"),
        ("reqntid 128", "maxntid 128", {}, "threads"),
        ("griddepcontrol.wait;", "", {}, "the wait for the previous kernel"),
        ("griddepcontrol.wait;", "ld.global.b32;\ngriddepcontrol.wait;", {}, "the wait for the previous kernel"),
        ("", "", {"shared": 230_000}, "shared memory"),
        ("", "", {"tensordesc_meta": None}, "tensor maps"),
        ("", "", {"global_scratch_size": 128}, "scratch memory"),
    ],
)
def test_a_kernel_in_another_form(old: str, new: str, change: dict[str, Any], name: str) -> None:
    ptx, metadata = built()
    assert compilation._differences(SMALL, ptx, metadata) == []
    assert compilation._differences(SMALL, ptx.replace(old, new), {**metadata, **change}) == [name]


def failing(kernel: Kernel) -> SimpleNamespace:
    raise AttributeError("module 'triton'\nhas no attribute 'knobs'")


def different(kernel: Kernel) -> SimpleNamespace:
    ptx, metadata = built()
    return SimpleNamespace(asm={"ptx": ptx}, metadata=SimpleNamespace(_asdict=lambda: metadata))


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (failing, rf"cannot compile {NAME} \(AttributeError: module 'triton' has no attribute 'knobs'\)"),
        (lambda kernel: SimpleNamespace(asm={}), rf"cannot compile {NAME} \(KeyError: 'ptx'\)"),
        (different, rf"compiles {NAME} in another form than expected: clusters"),
    ],
)
def test_another_triton(build: Callable[[Kernel], object], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_build", build)
    with pytest.raises(KernelError, match=f"Triton {sentence}"):
        check_compiler()
    assert not KERNELS
