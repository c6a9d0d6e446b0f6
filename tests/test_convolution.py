"""The convolution kernel's tiles, launch and place in engine files; tests/test_convolution_gpu.py runs the kernel."""

import ctypes
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.compiler._cache import CacheArtifactManager

from ldm.blocks import AddedConv2d
from plugins.convolution import compile as compilation
from plugins.convolution import launch
from plugins.convolution.compile import KERNELS, NAME, Kernel, machine_code, with_cluster
from plugins.convolution.op import _check, convolution
from plugins.convolution.tiles import TILES, Sizes, Tile, candidates, choose, fits
from plugins.group_norm.compile import KernelError
from runtime.artifacts import Manifest, load, save
from runtime.sources import import_closure
from tests.convolutions import ODD, emulate

SMALL = Kernel(Sizes(2, 4, 6, 128, 64), Tile(4, 2, 8, 64, stages=6, parts=2), bias=True, residual=False)
# The tiles with the lowest times on an H200 (of several within 3%, one), by pixels and channels, for two maps.
FASTEST = {
    ((4, 6), 1280, 1280): Tile(4, 2, 8, 64, 6, 4),
    ((4, 6), 2560, 1280): Tile(4, 2, 8, 64, 6, 4),
    ((8, 12), 640, 1280): Tile(8, 2, 4, 128, 3, 4),
    ((8, 12), 1280, 1280): Tile(8, 2, 4, 128, 3, 4),
    ((8, 12), 2560, 1280): Tile(8, 2, 4, 128, 3, 4),
    ((16, 24), 320, 640): Tile(16, 1, 8, 64, 4, 2),
    ((16, 24), 640, 640): Tile(16, 1, 8, 64, 4, 2),
    ((16, 24), 1280, 640): Tile(16, 1, 8, 64, 4, 2),
    ((16, 24), 1920, 640): Tile(16, 1, 8, 64, 4, 2),
    ((16, 24), 1280, 1280): Tile(16, 2, 8, 64, 3, 2),
    ((32, 48), 640, 320): Tile(16, 1, 8, 64, 4, 1),
    ((32, 48), 960, 320): Tile(16, 1, 8, 64, 4, 1),
}


@pytest.mark.parametrize("key", FASTEST, ids=str)
def test_the_fastest_tile_is_chosen(key: tuple[tuple[int, int], int, int]) -> None:
    size, channels, outs = key
    assert choose(Sizes(2, *size, channels, outs)) == FASTEST[key]


@pytest.mark.parametrize("tile", [one for outs in (64, 128) for one in candidates(outs)], ids=str)
def test_tiles_suit_the_hardware(tile: Tile) -> None:
    assert tile.shared <= 227 * 1024
    assert tile.pixels in (64, 128, 256), "the widths of a product"
    assert tile.outs == 16 * tile.warps, "each warp group computes 64 channels"
    assert tile.warps % 4 == 0
    assert tile.parts <= 8, "every GPU with clusters supports 8"
    assert tile.pixels // tile.parts * tile.outs >= 32 * tile.warps * 4, "each thread adds at least four outputs"
    assert 4 * tile.pixels * (tile.outs + 4) <= tile.shared, "a part fits into shared memory"


@pytest.mark.parametrize(
    ("sizes", "tile"),
    [(sizes, tile) for sizes in (Sizes(2, 8, 12, 128, 128), *ODD) for tile in TILES if sizes.outs % tile.outs == 0],
    ids=str,
)
def test_every_output_is_computed_once(sizes: Sizes, tile: Tile) -> None:
    x = torch.randn(sizes.n, sizes.h, sizes.w, sizes.channels, dtype=torch.float64)
    weight = torch.randn(sizes.outs, 3, 3, sizes.channels, dtype=torch.float64)
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), padding=1).permute(0, 2, 3, 1)
    for parts in (1, 4):
        got, writes = emulate(replace(tile, parts=parts), x, weight)
        assert (writes == 1).all()
        torch.testing.assert_close(got, expected)


def test_other_sizes_do_not_fit() -> None:
    assert fits(2 * 4 * 6, 1280, 1280)
    assert fits(2 * 32 * 48, 960, 320)
    assert fits(2 * 64 * 64, 320, 320)
    assert not fits(2 * 32 * 48, 4, 320), "the first convolution"
    assert not fits(2 * 32 * 48, 320, 4), "the last convolution"
    assert not fits(2 * 4 * 6, 96, 96), "the small model"
    assert not fits(256 * 384, 256, 256), "cuDNN fills the GPU"


def test_the_result_of_the_op() -> None:
    x, weight, bias = (torch.empty(*shape, device="meta") for shape in ((2, 64, 4, 6), (128, 64, 3, 3), (128,)))
    for residual in (None, torch.empty(2, 128, 4, 6, device="meta")):
        result = convolution(x.half(), weight.half(), bias.half(), residual)
        assert (result.shape, result.dtype) == ((2, 128, 4, 6), torch.float16)
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "other", "sentence"),
    [
        ("weight", torch.empty(64, 96, 3, 3), "expected in- and output channels that are multiples of 64"),
        ("x", torch.empty(2, 64, 4, 6), "got x as torch.float32"),
        ("x", torch.empty(2, 64, 4, 6).half(), "expected channels-last"),
        (
            "weight",
            torch.empty(128, 64, 1, 1).half(),
            r"weight as torch.float16 \[128, 64, 1, 1\] .* \[128, 64, 3, 3\]",
        ),
        ("bias", torch.empty(64).half(), r"got bias as torch.float16 \[64\]"),
        ("bias", torch.empty(129).half()[1:], "at an address that is not a multiple of 16 bytes"),
        ("residual", torch.empty(1, 128, 4, 6).half(), "got residual as"),
    ],
)
def test_unsupported_arguments(name: str, other: torch.Tensor, sentence: str) -> None:
    def last(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.half, memory_format=torch.channels_last)

    usual = {"x": last(2, 64, 4, 6), "weight": last(128, 64, 3, 3), "bias": torch.empty(128).half()}
    arguments = {**usual, "residual": last(2, 128, 4, 6)}
    _check(**arguments)
    with pytest.raises(ValueError, match=f"convolution .*{sentence}"):
        _check(**{**arguments, name: other})


class Driver:
    """Stands in for the CUDA driver: writes the rank into a tensor map."""

    status = 0

    def cuTensorMapEncodeTiled(self, encoded: Any, kind: int, rank: int, address: Any, *arrays: Any) -> int:
        assert ctypes.addressof(encoded) % 64 == 0, "the driver refuses other addresses"
        self.arrays = [list(one) for one in arrays[:4]]
        ctypes.memset(encoded, rank, 128)
        return self.status


def test_parameters_of_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gets the values of its PTX's parameters, in order."""
    monkeypatch.setattr(launch, "_driver", driver := Driver)
    monkeypatch.setattr(launch, "_load", lambda kernel, device: (kernel, device))
    read: list[object] = []

    def call(function: object, loaded: object, *numbers: int) -> None:
        assert loaded == (SMALL, 3)
        assert numbers[:8] == (1 * 1 * 1 * 1 * 2, 1, 1, 128, 1, 1, SMALL.tile.shared, 77)
        addresses = (ctypes.c_void_p * len(SMALL.parameters)).from_address(numbers[8])
        for kind, address in zip(SMALL.parameters, addresses, strict=True):
            size = {"align 64 .b8": 128, "u32": 4}.get(kind, 8)
            data = ctypes.string_at(address, size)
            read.append(set(data) if size == 128 else int.from_bytes(data, "little"))

    monkeypatch.setattr(launch, "call", call)
    x, weight = torch.zeros(2, 4, 6, 128), torch.zeros(64, 3, 3, 128)
    bias, result = torch.zeros(64), torch.zeros(2, 4, 6, 64)
    launch.launch(SMALL, (x, weight, bias, None, result), 3, 77)
    pixels = [{4}, 4, 2, 6, 128, 768, 3072, 128, 1]
    assert read[:5] == [{2}, 64, 1152, 1152, 1]
    assert read[5:23] == pixels * 2
    assert read[23:] == [bias.data_ptr(), 0, result.data_ptr(), 0, 0]
    monkeypatch.setattr(driver, "status", 1)
    with pytest.raises(KernelError, match=r"cuTensorMapEncodeTiled failed with status 1 for shape \[64, 1152\]"):
        launch.launch(SMALL, (x, weight, bias, None, result), 3, 77)


def test_the_drivers_order_of_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(launch, "_driver", lambda: driver)
    launch._tensor_map(1024, (4, 2, 6, 128), (768, 3072, 128, 1), [4, 2, 8, 64])
    assert driver.arrays == [[128, 6, 2, 4], [256, 6144, 1536], [64, 8, 2, 4], [1, 1, 1, 1]]


@pytest.fixture
def no_kernels() -> Iterator[None]:
    """Forget compiled kernels, before and after."""
    KERNELS.clear()
    with CacheArtifactManager.with_fresh_cache():
        yield
    KERNELS.clear()


@pytest.mark.usefixtures("no_kernels")
def test_engine_files_hold_the_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compilation, "compile_kernel", lambda kernel: b"cubin")
    assert machine_code(SMALL) == b"cubin"
    artifacts = torch.compiler.save_cache_artifacts()
    assert artifacts
    manifest = Manifest({"backend": "inductor"}, "python -m build")
    save(tmp_path, artifacts[0], manifest)
    KERNELS.clear()
    load(tmp_path, manifest)
    monkeypatch.setattr(compilation, "compile_kernel", lambda kernel: b"compiled again")
    assert machine_code(SMALL) == b"cubin"


def test_kernels_can_be_loaded_wherever_engine_files_can() -> None:
    """PyTorch refuses artifacts of a kind that it has not been told of."""
    assert "plugins/convolution/compile.py" in import_closure(("cldm/engine_files.py",))


def test_the_size_of_clusters() -> None:
    ptx = ".entry a()\n.reqntid 128\n{\n// cluster 4\nbarrier.cluster\n}"
    assert ".reqntid 128\n.explicitcluster\n.reqnctapercluster 4\n{" in with_cluster(ptx)
    assert with_cluster(ptx.replace("// cluster 4", "")) == ptx.replace("// cluster 4", "")


def built() -> tuple[str, dict[str, Any]]:
    """Return the parts of PTX, and metadata, that compilations are checked for."""
    parameters = [f".param .{kind} {NAME}_param_{index}" for index, kind in enumerate(SMALL.parameters)]
    ptx = ".extern .shared .align 16 .b8 global_smem[];\n.entry (" + ",\n".join(parameters) + ")\n.reqntid 128\n"
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
        (failing, r"cannot compile hopper_convolution \(AttributeError: module 'triton' has no attribute 'knobs'\)"),
        (lambda kernel: SimpleNamespace(asm={}), r"cannot compile hopper_convolution \(KeyError: 'ptx'\)"),
        (different, r"compiles hopper_convolution in another form than expected: clusters"),
    ],
)
def test_another_triton(build: Callable[[Kernel], object], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_build", build)
    with pytest.raises(KernelError, match=f"Triton {sentence}"):
        compilation.check_compiler()
    assert not KERNELS


def layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(64, 64, 3, padding=1),
        AddedConv2d(64),
        nn.Conv2d(64, 64, 3, 2, padding=1),
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 3),
    )


@pytest.mark.parametrize(("capability", "fused"), [((9, 0), True), ((8, 9), False), ((10, 0), False), ((12, 0), False)])
def test_which_layers_are_fused(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fused: bool) -> None:
    pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")
    from plugins.convolution import layer
    from plugins.split_k_convolution import SplitKConv2d, split_convolutions

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(layer, "check_compiler", lambda: None)
    model = layers()
    x = torch.randn(1, 64, 8, 8)
    expected = model(x)
    split_convolutions(model)
    layer.fuse_convolutions(model)
    first = layer.FusedConv2d if fused else SplitKConv2d
    assert [type(one) for one in model] == [first, first, SplitKConv2d, nn.Conv2d, nn.Conv2d]
    assert torch.equal(model(x), expected), "the eager layers have changed"


def test_without_a_compiler_the_layers_stay(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")
    from plugins.convolution import layer
    from plugins.split_k_convolution import SplitKConv2d, split_convolutions

    def fail() -> None:
        raise KernelError("no Triton")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(layer, "check_compiler", fail)
    model = layers()
    split_convolutions(model)
    with caplog.at_level(logging.WARNING):
        layer.fuse_convolutions(model)
    assert type(model[0]) is SplitKConv2d
    assert caplog.messages == ["convolutions use cuDNN and split sums, which are slower: no Triton"]
