"""Products with large tiles: where their kernel is used, and that it compiles; tests/test_product_gpu.py runs it."""

from typing import Any

import pytest
import torch

from plugins.hopper.cuda_kernel import ARCHITECTURE
from plugins.nvrtc import KernelError, compile_ptx
from plugins.product import large_tiles, many_rows, op
from plugins.product.cuda import WARPGROUPS
from plugins.product.large_tiles import NARROWER, make_kernel, tile_width
from plugins.product.op import norm_geglu, norm_product, product, product_stats
from plugins.product.tiles import WIDE, Sizes, group_width
from plugins.waiting import waits_first
from tests.nvrtc import require_nvrtc
from tests.products import LARGE, MANY_ROWS, ODD, SD15, SMALL, check_registers, choices

PLAIN, GATED = Sizes(24576, 320, 320), Sizes(6144, 640, 2560, gated=True)
NORMS: list[dict[str, Any]] = [{"eps": 1e-5}, {"eps": 1e-5, "group": WIDE}]
KERNELS = [
    *((PLAIN, {"residual": residual, "stats": stats}) for residual in (False, True) for stats in (False, True)),
    *((sizes, norm) for sizes in (PLAIN, GATED) for norm in NORMS),
    *((Sizes(1536, 1280, 3840), {**norm, "width": NARROWER}) for norm in NORMS),
]


@pytest.mark.parametrize(("sizes", "options"), KERNELS, ids=str)
def test_the_kernel_compiles(sizes: Sizes, options: dict[str, Any]) -> None:
    require_nvrtc()
    kernel = make_kernel(sizes, **options)
    assert waits_first(compile_ptx(kernel.source, kernel.constants, ARCHITECTURE).decode())
    assert f".text.{kernel.name}".encode() in kernel.cubin()


def test_narrower_tiles_need_a_norm() -> None:
    require_nvrtc()
    with pytest.raises(KernelError, match="no other kernel knows statistics of such groups"):
        make_kernel(PLAIN, NARROWER, stats=True).cubin()


@pytest.mark.parametrize("options", [{}, {"eps": 1e-5, "residual": True}, {"eps": 1e-5, "stats": True}], ids=str)
def test_gates_need_a_norm_alone(options: dict[str, Any]) -> None:
    require_nvrtc()
    with pytest.raises(KernelError, match="gates need a norm, and nothing is added to them"):
        make_kernel(GATED, **options).cubin()


@pytest.mark.parametrize("width", [WIDE, NARROWER])
def test_it_suits_the_hardware(width: int) -> None:
    kernel = make_kernel(PLAIN, width)
    static = 8 * 2 * large_tiles.STAGES + 4 * WARPGROUPS * (2 * width + 1024)
    assert kernel.shared + static <= 227 * 1024
    check_registers(kernel)


@pytest.mark.parametrize(
    ("sizes", "norm", "width"),
    [
        *((sizes, True, WIDE if sizes.gated and sizes.depth < 1280 else None) for sizes in SD15),
        *((sizes, True, None) for sizes in (*SMALL, *ODD)),
        (MANY_ROWS[0], True, WIDE),
        (Sizes(12288, 320, 320), False, WIDE),  # four pictures
        (Sizes(6144, 320, 320), False, None),  # tiles for half of the multiprocessors
        (Sizes(1536, 1280, 1280), False, None),
        (Sizes(1536, 5120, 1280), False, None),
        (Sizes(1536, 1280, 3840), True, NARROWER),  # 240 tiles; 192 of those with WIDE columns also take two rounds
        (Sizes(1536, 1280, 3840), False, WIDE),
        (Sizes(768, 1280, 3840), True, NARROWER),
        (Sizes(6144, 640, 1920), True, WIDE),  # 480 tiles would take four rounds
        (Sizes(30000, 320, 320), False, WIDE),
        (Sizes(26000, 320, 320), False, None),  # a few tiles more than two for each multiprocessor
        (Sizes(24576, 320, 328), True, None),
        (Sizes(24576, 328, 320), True, None),
    ],
    ids=str,
)
def test_where_it_is_used(sizes: Sizes, norm: bool, width: int | None) -> None:
    assert tile_width(sizes, norm) == width


@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_it_is_used_for_the_sizes_of_the_gpu_tests(sizes: Sizes) -> None:
    assert tile_width(sizes)
    assert tile_width(sizes, norm=True)


def test_groups_of_statistics() -> None:
    assert [group_width(320, count) for count in (5, 2)] == [64, 160]
    assert [group_width(columns, 1) for columns in (64, 160)] == [64, 160]
    with pytest.raises(ValueError, match="of 3 groups of columns, expected 5 or 2 for 320 columns"):
        group_width(320, 3)
    with pytest.raises(ValueError, match="of 3 groups of columns, expected 5 for 300 columns"):
        group_width(300, 3)


def test_the_shape_of_statistics() -> None:
    for sizes, count in ((Sizes(24576, 320, 320), 2), (Sizes(3072, 320, 320), 5)):
        x, weight, bias = (
            torch.empty(shape, dtype=torch.half, device="meta") for shape in ((sizes.rows, 320), (320, 320), (320,))
        )
        assert product_stats(x, weight, bias)[1].shape == (sizes.rows, count, 2)


@pytest.mark.parametrize("compiles", [True, False])
def test_the_ops_choose_the_kernel(compiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used = choices(monkeypatch, large_tiles, compiles)

    def run_few(kernel: Any, x: Any, weight: Any, others: tuple[Any, ...]) -> None:
        used.append("few")
        others[2].copy_(torch.arange(WIDE))

    monkeypatch.setattr(op, "run_few", run_few)
    bias, columns = torch.zeros(WIDE, dtype=torch.half), torch.zeros(WIDE)
    weight = torch.zeros(WIDE, 64, dtype=torch.half)
    for rows in (64, 192 * 132):
        x = torch.zeros(rows, 64, dtype=torch.half)
        _, stats = product_stats.function(x, weight, bias)
        product.function(x, weight, bias)
        product.function(x, weight)  # without a bias
        product.function(x, torch.zeros(2 * WIDE, 64).half(), torch.zeros(2 * WIDE).half(), gated=True)
        norm_product.function(x, torch.zeros(rows, 1, 2), weight, columns, columns, 1e-5)
    large = "large_tiles" if compiles else "few"
    assert used == ["few"] * 5 + [large, large, "few", "few", large]
    assert stats.shape == (rows, 1, 2)
    if not compiles:  # PyTorch computes the statistics
        torch.testing.assert_close(stats[-1, 0], torch.tensor([79.5, (WIDE**3 - WIDE) / 12]))


@pytest.mark.parametrize(("rows", "kernel"), [(3072, "few"), (24576, "large"), (24576, "many")])
@pytest.mark.parametrize(("count", "group"), [(5, 64), (2, 160)])
def test_the_kernels_know_the_groups(
    rows: int, kernel: str, count: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    for module in (large_tiles, many_rows):
        monkeypatch.setattr(module, "runs_on", lambda device: True)
        monkeypatch.setattr(module, "run", lambda kernel, *_: found.append(int(dict(kernel.constants)["GROUP"])))
    monkeypatch.setattr(op, "run_few", lambda kernel, *_: found.append(kernel.group))
    x, stats = torch.zeros(rows, 320, dtype=torch.half), torch.zeros(rows, count, 2)
    width = 2 * 1280 if kernel == "many" else 320
    weight, columns = torch.zeros(width, 320, dtype=torch.half), torch.zeros(width)
    run = norm_geglu if kernel == "many" else norm_product
    run.function(x, stats, weight, columns, columns, 1e-5)
    assert found == [group]
    with pytest.raises(ValueError, match="of 3 groups of columns, expected 5 or 2"):
        run.function(x, torch.zeros(rows, 3, 2), weight, columns, columns, 1e-5)
