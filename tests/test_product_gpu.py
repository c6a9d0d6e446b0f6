"""The kernel of matrix products compared with PyTorch, on a Hopper GPU."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")

from plugins.folded_norms import fold
from plugins.product import large_tiles, many_rows
from plugins.product.compile import ProductKernel
from plugins.product.op import norm_geglu, norm_product, product, product_stats, run_few
from plugins.product.tiles import STEP, WIDE, Sizes, choose
from tests.hopper import check, check_at_the_same_time, check_in_a_graph, needs_hopper
from tests.products import LARGE, MANY_ROWS, ODD, SD15, SMALL

pytestmark = [pytest.mark.gpu, needs_hopper]


def random(*shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (scale * torch.randn(shape, generator=generator)).half().cuda()


def inputs(sizes: Sizes) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return x, weight, bias and, without gates, residual."""
    weight = random(sizes.width, sizes.depth, scale=sizes.depth**-0.5)
    residual = None if sizes.gated else random(sizes.rows, sizes.columns)
    return random(sizes.rows, sizes.depth), weight, random(sizes.width), residual


Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def plain(inputs: Inputs, gated: bool) -> Tensor:
    x, weight, bias, residual = inputs
    y = F.linear(x, weight, bias)
    if gated:
        value, gate = y.chunk(2, dim=-1)
        y = value * F.gelu(gate)
    return y if residual is None else y + residual


def double(inputs: Inputs) -> Inputs:
    x, weight, *others = inputs
    bias, residual = (None if tensor is None else tensor.double() for tensor in others)
    return x.double(), weight.double(), bias, residual


@pytest.mark.parametrize("sizes", [*SD15, *SMALL, *ODD, *(one for one in LARGE if not one.gated)], ids=str)
def test_the_kernel(sizes: Sizes) -> None:
    tensors = inputs(sizes)
    got = product(*tensors, sizes.gated)
    check(got, plain(tensors, sizes.gated), plain(double(tensors), sizes.gated))
    assert all(torch.equal(got, product(*tensors, sizes.gated)) for _ in range(20)), "two runs differ"
    x, weight, *_ = tensors
    others = x, weight, None, None
    check(product(*others, sizes.gated), plain(others, sizes.gated), plain(double(others), sizes.gated))


def statistics(rows: Tensor, width: int = STEP) -> Tensor:
    groups = rows.double().split(width, dim=1)
    each = [torch.stack((one.mean(1), one.var(1, correction=0) * one.shape[1]), dim=1) for one in groups]
    return torch.stack(each, dim=1)


WITH_STATISTICS = [one for one in (*SD15, *SMALL, *ODD) if not one.gated and (one.depth == one.columns or one in ODD)]


@pytest.mark.parametrize("sizes", [*WITH_STATISTICS, *(one for one in LARGE if not one.gated)], ids=str)
@pytest.mark.parametrize("residual", [True, False])
def test_statistics_of_rows(sizes: Sizes, residual: bool) -> None:
    x, weight, bias, added = inputs(sizes)
    tensors = x, weight, bias, added if residual else None
    got, stats = product_stats(*tensors)
    check(got, plain(tensors, False), plain(double(tensors), False))
    true = statistics(got, large_tiles.stats_width(sizes))
    torch.testing.assert_close(stats.double(), true, atol=1e-4, rtol=1e-5)
    assert torch.equal(got, product_stats(*tensors)[0]), "two runs differ"


AFTER_A_NORM = [one for one in (*SD15, *SMALL, *ODD) if one.depth <= one.columns or one in ODD] + MANY_ROWS + LARGE


@pytest.mark.parametrize("sizes", AFTER_A_NORM, ids=str)
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_a_norm_before(sizes: Sizes, mean: float) -> None:
    x, _, _, _ = inputs(sizes)
    x = (x + mean).half()
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(sizes.depth).cuda().half(), nn.Linear(sizes.depth, sizes.width).cuda().half()
    norm.weight.data.normal_(1, 0.2)
    norm.bias.data.normal_(0, 0.2)
    with torch.no_grad():
        weight, sums, shifts = fold(norm, [linear])
        stats = statistics(x).float()
        op = norm_geglu if sizes.gated else norm_product
        got = op(x, stats, weight, sums, shifts, norm.eps)
        half = plain((norm(x), linear.weight, linear.bias, None), sizes.gated)
        norm, linear = norm.double(), linear.double()
        true = plain((norm(x.double()), linear.weight, linear.bias, None), sizes.gated)
        check(got, half, true)
        assert torch.equal(got, op(x, stats, weight, sums, shifts, 1e-5)), "two runs differ"


@pytest.mark.parametrize("sizes", [SD15[0], SD15[-1], *ODD], ids=str)
@pytest.mark.parametrize("parts", [1, 4])
def test_nothing_else_is_written(sizes: Sizes, parts: int) -> None:
    """Memory before and after the result stays."""
    x, weight, bias, _ = inputs(sizes)
    kernel = ProductKernel(sizes, replace(choose(sizes), parts=parts, warps=4), bias=True)
    result, stays = inside(sizes.rows, sizes.columns)
    run_few(kernel, x, weight, (bias, None, result, None, None, None))
    torch.testing.assert_close(result, product(x, weight, bias, gated=sizes.gated), atol=0.01, rtol=0.01)
    assert stays()


def inside(*size: int, dtype: torch.dtype = torch.float16) -> tuple[Tensor, Callable[[], bool]]:
    """Return memory for a result, and a function that returns whether the memory before and after it is as before."""
    memory = torch.full((2**20 + math.prod(size),), 7.0, dtype=dtype, device="cuda")
    around = memory[: 2**19], memory[-(2**19) :]
    return memory[2**19 : -(2**19)].view(size), lambda: all(bool((one == 7).all()) for one in around)


@pytest.mark.parametrize("group", [STEP, WIDE])
@pytest.mark.parametrize("sizes", [*MANY_ROWS, *LARGE], ids=str)
def test_many_rows_after_a_norm(sizes: Sizes, group: int) -> None:
    """The kernels for many rows compute what the one for few does, from either statistics, and write nothing else."""
    if sizes.depth % group:
        pytest.skip("no such statistics")
    x, weight, shifts, _ = inputs(sizes)
    x = (3 * x + 1).half()
    vectors = statistics(x, group).float(), weight.float().sum(1), shifts.float()
    result, stays = inside(sizes.rows, sizes.columns)
    if many_rows.fits(sizes):
        many_rows.run(many_rows.make_kernel(sizes, 1e-5, group), sizes, x, weight, (*vectors, result))
    else:
        width = large_tiles.tile_width(sizes, norm=True)
        assert width
        kernel = large_tiles.make_kernel(sizes, width, eps=1e-5, group=group)
        large_tiles.run(kernel, sizes, width, x, weight, (*vectors, None, result, None))
    other = torch.empty_like(result)
    stats, *of_columns = vectors
    few = ProductKernel(sizes, choose(sizes), eps=1e-5, group=group)
    run_few(few, x, weight, (None, None, other, stats, *of_columns))
    torch.testing.assert_close(result, other, atol=0.01, rtol=0.01)
    assert stays()
    op = norm_geglu if sizes.gated else norm_product
    assert torch.equal(result, op(x, stats, weight, *of_columns, 1e-5)), "the op uses the other kernel"


@pytest.mark.parametrize("sizes", [one for one in LARGE if not one.gated], ids=str)
@pytest.mark.parametrize("residual", [True, False])
def test_large_tiles_write_nothing_else(sizes: Sizes, residual: bool) -> None:
    x, weight, bias, added = inputs(sizes)
    tensors = x, weight, bias, added if residual else None
    result, stays = inside(sizes.rows, sizes.columns)
    stats, too = inside(sizes.rows, sizes.columns // WIDE, 2, dtype=torch.float32)
    kernel = large_tiles.make_kernel(sizes, WIDE, residual, stats=True)
    large_tiles.run(kernel, sizes, WIDE, x, weight, (None, None, bias, tensors[3], result, stats))
    assert stays()
    assert too()
    assert torch.equal(result, product(*tensors)), "the op uses another kernel"
    assert torch.equal(stats, product_stats(*tensors)[1])


def test_without_large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch computes the statistics that tracing expects, and the kernel for few rows reads them."""
    sizes = Sizes(24576, 320, 320)
    tensors = inputs(sizes)
    expected = product_stats(*tensors)
    of_columns = tensors[1].float().sum(1), torch.zeros(sizes.width, device="cuda")
    after = norm_product(*expected, tensors[1], *of_columns, 1e-5)
    monkeypatch.setattr(large_tiles, "runs_on", lambda device: False)
    got = product_stats(*tensors)
    torch.testing.assert_close(got[0], expected[0], atol=0.01, rtol=0.01)
    torch.testing.assert_close(got[1], expected[1], atol=0.1, rtol=0.01)
    torch.testing.assert_close(norm_product(*got, tensors[1], *of_columns, 1e-5), after, atol=0.01, rtol=0.01)


def test_many_rows_at_the_same_time() -> None:
    cases = []
    for sizes in (*MANY_ROWS[-3:], *LARGE[-3:]):
        x, weight, shifts, _ = inputs(sizes)
        cases.append((sizes.gated, x, statistics(x).float(), weight, weight.float().sum(1), shifts.float(), 1e-5))
    check_at_the_same_time(lambda gated, *rest: (norm_geglu if gated else norm_product)(*rest), cases)


def test_many_at_the_same_time() -> None:
    """Kernels with clusters, some of whose rows are beyond the end, on several streams, end and compute the same."""
    cases = [inputs(sizes) for sizes in SD15 if sizes.rows < 200 and not sizes.gated]
    check_at_the_same_time(product, cases)


def test_in_a_graph() -> None:
    check_in_a_graph(product, *inputs(SD15[-1]))
