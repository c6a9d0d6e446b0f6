"""GEGLU of many rows: where its kernel is used, and that it compiles; tests/test_product_gpu.py runs it."""

import pytest
import torch

from plugins.hopper.cuda_kernel import ARCHITECTURE
from plugins.nvrtc import compile_ptx
from plugins.product import cuda, many_rows
from plugins.product.many_rows import fits, make_kernel, stages
from plugins.product.op import norm_geglu
from plugins.product.tiles import STEP, Sizes, group_width, groups
from plugins.waiting import waits_first
from tests.nvrtc import require_nvrtc
from tests.products import LARGE, MANY_ROWS, SD15, check_registers, choices, constants


@pytest.mark.parametrize("sizes", MANY_ROWS, ids=str)
def test_the_kernel_compiles(sizes: Sizes) -> None:
    require_nvrtc()
    kernel = make_kernel(sizes, 1e-5, group_width(sizes.depth, groups(sizes.depth)))
    assert waits_first(compile_ptx(kernel.source, kernel.constants, ARCHITECTURE).decode())
    assert f".text.{kernel.name}".encode() in kernel.cubin()


def test_constants_are_equal() -> None:
    assert constants(many_rows.SOURCE, "WIDTH") == [many_rows.WIDTH]
    assert constants(many_rows.SOURCE.with_name("sums.cuh"), "STEP", "ROWS", "WARPGROUPS") == [
        STEP,
        cuda.ROWS,
        cuda.WARPGROUPS,
    ]


DEPTHS = [depth for depth in range(64, 2048, 64) if stages(depth) >= many_rows.FEWEST_STAGES]


@pytest.mark.parametrize("depth", DEPTHS)
def test_it_suits_the_hardware(depth: int) -> None:
    sizes = Sizes(2**20, depth, 1024, gated=True)
    assert fits(sizes)
    assert 320 in DEPTHS
    kernel = make_kernel(sizes, 1e-5)
    steps, warpgroups = sizes.depth // 64, cuda.WARPGROUPS
    static = 8 * (1 + steps + 2 * warpgroups * stages(sizes.depth)) + 4 * warpgroups * (2 * many_rows.WIDTH + 1024)
    assert kernel.shared + static <= 227 * 1024
    check_registers(kernel)


@pytest.mark.parametrize(
    ("sizes", "used"),
    [
        *((sizes, False) for sizes in (*SD15, *LARGE)),
        *((sizes, True) for sizes in MANY_ROWS),
        (Sizes(2048, 320, 1280, gated=True), False),  # too few units for each program
        (Sizes(6144, 640, 2560, gated=True), False),  # the weights of 128 columns are too large
        (Sizes(24576, 328, 328, gated=True), False),  # no multiple of 64
    ],
    ids=str,
)
def test_where_it_is_used(sizes: Sizes, used: bool) -> None:
    assert fits(sizes) == used


@pytest.mark.parametrize("compiles", [True, False])
def test_the_op_chooses_the_kernel(compiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used = choices(monkeypatch, many_rows, compiles)
    columns = torch.zeros(144)
    for rows in (64, 10001):
        x = torch.zeros(rows, 64, dtype=torch.half)
        weight = torch.zeros(144, 64, dtype=torch.half)
        norm_geglu.function(x, torch.zeros(rows, 1, 2), weight, columns, columns, 1e-5)
    assert used == ["few", "many_rows" if compiles else "few"]
