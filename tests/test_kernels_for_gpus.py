"""Our kernels compile for GPUs that they have not run on.

NVRTC comes with the extra dev, Triton with PyTorch for CUDA, and ptxas with the CUDA toolkit.
"""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.cpp_extension import CUDA_HOME

from plugins.convolution.compile import ConvolutionKernel
from plugins.convolution.tiles import FP8_TILES, PHASE_TILES, STRIDE_TILES, TILES, Sizes, Tile
from plugins.group_norm.large import large_launches
from plugins.group_norm.launch import SOURCE, choose_launch
from plugins.hopper.compile import compile_kernel
from plugins.nvrtc import compile_ptx
from plugins.product.compile import ProductKernel
from plugins.product.tiles import TILES as PRODUCT_TILES
from plugins.product.tiles import Sizes as ProductSizes
from plugins.product.tiles import Tile as ProductTile
from plugins.product.tiles import choose as choose_product
from plugins.short_attention.compile import ShortAttention
from tests.nvrtc import require_nvrtc
from tests.products import ODD, SMALL

PTXAS = shutil.which("ptxas", path=f"{os.environ.get('PATH')}:{CUDA_HOME}/bin")
# Compute capability -> maximum bytes of shared memory per block (CUDA C++ Programming Guide).
SHARED = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}
MAPS = [(2, 320, 32 * 48, 32), (2, 2560, 4 * 6, 32), (1, 128, 256 * 384, 32)]


def compile_for(capability: int, shape: tuple[int, int, int, int], channels_last: bool) -> bytes:
    clusters = capability >= 90
    launch = choose_launch(*shape, 1e-5, silu=True, channels_last=channels_last, clusters=clusters, shift=channels_last)
    return compile_ptx(SOURCE, launch.defines, capability)


@pytest.fixture(scope="module")
def nvrtc() -> None:
    require_nvrtc()


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("capability", SHARED)
def test_group_norm_compiles(capability: int, shape: tuple[int, int, int, int], channels_last: bool) -> None:
    assert f".target sm_{capability}".encode() in compile_for(capability, shape, channels_last)


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("joined", [0, 640])
@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("capability", [89, 90, 120])
def test_group_norm_to_e4m3_compiles(capability: int, shape: tuple[int, int, int, int], joined: int) -> None:
    joined = joined if joined < shape[1] else 64
    launch = choose_launch(
        *shape, 1e-5, silu=True, channels_last=True, clusters=capability >= 90, joined=joined, fp8=True
    )
    assert b"cvt.rn.satfinite.e4m3x2.f32" in compile_ptx(SOURCE, launch.defines, capability)


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("capability", SHARED)
def test_group_norm_of_large_maps_compiles(capability: int) -> None:
    _, launch, _ = large_launches(1, 128, 256 * 384, 32, 1e-5, silu=True)
    assert f".target sm_{capability}".encode() in compile_ptx(launch.source, launch.defines, capability)


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.skipif(PTXAS is None, reason="needs ptxas from the CUDA toolkit to assemble the PTX")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("capability", SHARED)
def test_group_norm_assembles(
    capability: int, shape: tuple[int, int, int, int], channels_last: bool, tmp_path: Path
) -> None:
    assert PTXAS
    (tmp_path / "kernel.ptx").write_bytes(compile_for(capability, shape, channels_last).rstrip(b"\0"))
    command = [PTXAS, f"-arch=sm_{capability}", str(tmp_path / "kernel.ptx"), "-o", str(tmp_path / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Unsupported .version" in done.stderr:
        pytest.skip(f"{PTXAS} is older than NVRTC")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kernel.cubin").stat().st_size > 0


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_hopper_convolution(tile: Tile) -> None:
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
    sizes = Sizes(3, 9, 11, 128, 2 * tile.outs)
    assert tile.shared <= SHARED[90]
    assert compile_kernel(ConvolutionKernel(sizes, replace(tile, parts=2), bias=True, residual=True))
    assert compile_kernel(ConvolutionKernel(replace(sizes, extra=192), tile, bias=True, residual=False))
    uneven = Sizes(3, 9, 11, 72, 2 * tile.outs - 24, extra=40)
    assert compile_kernel(ConvolutionKernel(uneven, replace(tile, parts=4), bias=True, residual=True))


@pytest.mark.parametrize("tile", FP8_TILES, ids=str)
def test_hopper_convolution_of_e4m3(tile: Tile) -> None:
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
    sizes = Sizes(3, 9, 11, 128, 2 * tile.outs, fp8=True)
    assert tile.shared <= SHARED[90]
    assert compile_kernel(ConvolutionKernel(sizes, replace(tile, parts=2), bias=True, residual=True))
    uneven = Sizes(3, 9, 11, 80, 2 * tile.outs - 24, extra=40, fp8=True)
    assert compile_kernel(ConvolutionKernel(uneven, tile, bias=True, residual=False))


@pytest.mark.parametrize("tile", PHASE_TILES, ids=str)
def test_hopper_upsampling(tile: Tile) -> None:
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
    sizes = Sizes(3, 9, 11, 128, 2 * tile.outs, taps=2)
    assert tile.shared <= SHARED[90]
    for one in (sizes, replace(sizes, channels=72, outs=tile.outs - 24)):
        assert compile_kernel(ConvolutionKernel(one, tile, bias=True, residual=False))


@pytest.mark.parametrize("tile", STRIDE_TILES, ids=str)
def test_hopper_convolution_with_a_stride(tile: Tile) -> None:
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
    assert tile.shared <= SHARED[90]
    for one in (Sizes(3, 9, 11, 128, 2 * tile.outs, stride=2), Sizes(3, 9, 11, 72, tile.outs - 24, stride=2)):
        assert compile_kernel(ConvolutionKernel(one, tile, bias=True, residual=False))


@pytest.mark.parametrize("tile", PRODUCT_TILES, ids=str)
@pytest.mark.parametrize("gated", [False, True])
def test_hopper_product(tile: ProductTile, gated: bool) -> None:
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
    sizes = ProductSizes(100, 128, tile.width, gated)
    assert tile.shared <= SHARED[90]
    stats = not gated and tile.width == 64
    assert compile_kernel(ProductKernel(sizes, tile, bias=True, residual=not gated, stats=stats))
    assert compile_kernel(ProductKernel(sizes, tile, eps=1e-5))


@pytest.mark.parametrize(
    ("rows", "tokens", "heads", "head"),
    [(1536, 77, 8, 40), (1536, 154, 8, 40), (384, 384, 8, 80), (24, 154, 8, 160), (1536, 1536, 2, 16), (9, 5, 1, 256)],
)
def test_short_attention(rows: int, tokens: int, heads: int, head: int) -> None:
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
    width = heads * head
    kernel = ShortAttention(2, rows, tokens, heads, head, (rows * width, width, 2 * tokens * width, 2 * width), True)
    assert kernel.tile.shared <= SHARED[90]
    assert compile_kernel(kernel)


@pytest.mark.parametrize("sizes", [one for one in (*SMALL, *ODD) if one.columns % 64 and one.rows < 768], ids=str)
def test_hopper_product_of_narrow_rows(sizes: ProductSizes) -> None:
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
    tile, gated = choose_product(sizes), sizes.gated
    assert compile_kernel(ProductKernel(sizes, tile, bias=True, residual=not gated))
    assert compile_kernel(ProductKernel(sizes, tile, eps=1e-5))
    if not gated:
        assert compile_kernel(ProductKernel(sizes, choose_product(sizes, stats=True), bias=True, stats=True))


@pytest.mark.parametrize("capability", SHARED)
def test_split_k_convolution(capability: int) -> None:
    triton = pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from plugins import split_k_tiles as split_k
    from plugins.split_k_kernel import _convolution

    kernel = _convolution
    sizes = {"STRIDE": 1, "ROWS": split_k.ROWS, "COLUMNS": split_k.COLUMNS, "DEPTH": split_k.DEPTH}
    pointers = {"x": "*fp16", "weight": "*fp16", "result": "*fp32"}
    signature: dict[str, str] = {
        name: "constexpr" if name in sizes else pointers.get(name, "i32") for name in kernel.arg_names
    }
    places: dict[Any, Any] = {(kernel.arg_names.index(name),): value for name, value in sizes.items()}
    built = triton.compile(
        ASTSource(kernel, signature, places),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": split_k.WARPS, "num_stages": split_k.STAGES},
    )
    assert built.asm["cubin"]
    assert built.metadata.shared <= SHARED[capability]
