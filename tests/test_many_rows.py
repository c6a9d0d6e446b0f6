"""Products of many rows: where their kernel is used, and that it compiles; tests/test_product_gpu.py runs it."""

import re
from typing import Any

import pytest
import torch

from plugins.hopper import cuda_kernel
from plugins.hopper.cuda_kernel import ARCHITECTURE
from plugins.nvrtc import KernelError, compile_ptx
from plugins.product import many_rows, op
from plugins.product.many_rows import fits, make_kernel, stages
from plugins.product.op import norm_product
from plugins.product.tiles import Sizes
from plugins.waiting import waits_first
from tests.nvrtc import require_nvrtc
from tests.products import MANY_ROWS, SD15


@pytest.mark.parametrize("sizes", MANY_ROWS, ids=str)
def test_the_kernel_compiles(sizes: Sizes) -> None:
    require_nvrtc()
    kernel = make_kernel(sizes, 1e-5)
    assert waits_first(compile_ptx(kernel.source, kernel.constants, ARCHITECTURE).decode())
    assert f".text.{kernel.name}".encode() in kernel.cubin()


def test_constants_are_equal() -> None:
    found = dict(re.findall(r"\b([A-Z]+) = (\d+)\b", many_rows.SOURCE.read_text()))
    names = ("ROWS", "WIDTH", "WARPGROUPS")
    assert tuple(int(found[name]) for name in names) == (many_rows.ROWS, many_rows.WIDTH, many_rows.WARPGROUPS)


DEPTHS = [depth for depth in range(64, 2048, 64) if stages(depth) >= many_rows.FEWEST_STAGES]


@pytest.mark.parametrize("depth", DEPTHS)
def test_it_suits_the_hardware(depth: int) -> None:
    sizes = Sizes(2**20, depth, 1024)
    assert fits(sizes)
    assert {320, 640} <= {*DEPTHS}
    kernel = make_kernel(sizes, 1e-5)
    steps, groups = sizes.depth // 64, many_rows.WARPGROUPS
    static = 8 * (1 + steps + 2 * groups * stages(sizes.depth)) + 4 * groups * 2 * many_rows.WIDTH
    assert kernel.shared + static <= 227 * 1024
    entered = 65536 // kernel.threads // 8 * 8  # registers of each thread, before they are divided anew
    assert groups * many_rows.REGISTERS + loading_registers() <= (groups + 1) * entered


def loading_registers() -> int:
    found = re.search(r"setmaxnreg\.dec\.sync\.aligned\.u32 (\d+)", many_rows.SOURCE.read_text())
    assert found
    return int(found[1])


@pytest.mark.parametrize(
    ("sizes", "used"),
    [
        *((sizes, False) for sizes in SD15),
        *((sizes, True) for sizes in MANY_ROWS),
        (Sizes(12288, 320, 320), False),  # too few units for each program
        (Sizes(3072, 640, 1920), False),
        (Sizes(1536, 1280, 10240, gated=True), False),  # the weights of 128 columns are too large
        (Sizes(24576, 328, 328), False),  # no multiple of 64
    ],
    ids=str,
)
def test_where_it_is_used(sizes: Sizes, used: bool) -> None:
    assert fits(sizes) == used


@pytest.mark.parametrize("compiles", [True, False])
def test_the_op_chooses_the_kernel(compiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def compile_kernel(*arguments: Any) -> bytes:
        if not compiles:
            raise KernelError("no NVRTC")
        return b""

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda_kernel, "cubin", compile_kernel)
    monkeypatch.setattr(many_rows, "runs_on", many_rows.runs_on.__wrapped__)
    monkeypatch.setattr(many_rows, "run", lambda *arguments: used.append("many"))
    monkeypatch.setattr(op, "run", lambda *arguments: used.append("few"))
    columns = torch.zeros(72)
    for rows in (64, 10001):
        x = torch.zeros(rows, 64, dtype=torch.half)
        weight = torch.zeros(72, 64, dtype=torch.half)
        norm_product.function(x, torch.zeros(rows, 1, 2), weight, columns, columns, 1e-5)
    assert used == ["few", "many" if compiles else "few"]
