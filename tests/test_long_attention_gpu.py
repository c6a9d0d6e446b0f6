"""The kernel for attention over many tokens against PyTorch's."""

from functools import partial

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")

from ldm.attention import attend
from plugins.long_attention.op import long_attention
from tests.hopper import check, check_at_the_same_time, check_in_a_graph, needs_hopper

pytestmark = [pytest.mark.gpu, needs_hopper]


def packed(n: int, tokens: int, heads: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v of one product: a row's stride is that of all three."""
    q, k, v = (scale * torch.randn(n, tokens, 120 * heads, device="cuda")).half().chunk(3, dim=-1)
    return q, k, v


def compare(q: Tensor, k: Tensor, v: Tensor, heads: int) -> None:
    got = long_attention(q, k, v, heads)
    check(got, attend(q, k, v, heads), attend(q.double(), k.double(), v.double(), heads))
    assert torch.equal(got, long_attention(q, k, v, heads)), "two runs differ"


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(
    ("n", "tokens", "heads"), [(2, 1536, 8), (1, 1536, 8), (3, 768, 8), (8, 1536, 8), (1, 192, 1), (2, 288, 3)]
)
def test_self_attention(n: int, tokens: int, heads: int, scale: float) -> None:
    compare(*packed(n, tokens, heads, scale), heads)


@pytest.mark.parametrize("rows", [1, 100, 191, 193, 500])
def test_fewer_or_more_queries(rows: int) -> None:
    _, k, v = packed(2, 384, 2)
    compare(torch.randn(2, rows, 80, device="cuda").half(), k, v, 2)


def test_distant_keys() -> None:
    """The softmax of large scores neither overflows nor depends on which part of the keys has the largest."""
    q, k, v = packed(2, 768, 2)
    compare(8 * q, 8 * k, v, 2)
    compare(q.abs(), k.abs() * torch.linspace(0, 8, 768, device="cuda").half()[:, None], v, 2)


def test_at_the_same_time() -> None:
    check_at_the_same_time(partial(long_attention, heads=8), [packed(2, 1536, 8) for _ in range(3)])


def test_in_a_graph() -> None:
    q, k, v = packed(2, 768, 2)
    check_in_a_graph(partial(long_attention, heads=2), q.contiguous(), k, v)
