"""The kernel for attention of many queries against PyTorch's."""

from functools import partial

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")

from ldm.attention import attend
from plugins.long_attention.op import long_attention, run
from tests.hopper import check, check_at_the_same_time, check_in_a_graph, needs_hopper

pytestmark = [pytest.mark.gpu, needs_hopper]


def packed(n: int, tokens: int, heads: int, scale: float = 1.0, head: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v of one product: a row's stride is that of all three."""
    q, k, v = (scale * torch.randn(n, tokens, 3 * head * heads, device="cuda")).half().chunk(3, dim=-1)
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


@pytest.mark.parametrize("scale", [0.3, 4.0])
@pytest.mark.parametrize(("n", "tokens"), [(16, 384), (4, 384), (1, 64), (3, 129)])
def test_wider_heads(n: int, tokens: int, scale: float) -> None:
    compare(*packed(n, tokens, 8, scale, head=80), 8)


@pytest.mark.parametrize("head", [40, 80])
@pytest.mark.parametrize("rows", [1, 100, 191, 193, 500])
def test_fewer_or_more_queries(rows: int, head: int) -> None:
    _, k, v = packed(2, 384, 2, head=head)
    compare(torch.randn(2, rows, 2 * head, device="cuda").half(), k, v, 2)


@pytest.mark.parametrize("head", [40, 80])
@pytest.mark.parametrize("tokens", [1, 7, 64, 65, 77, 80, 81, 96, 97, 154, 192, 1000])
def test_any_number_of_keys(tokens: int, head: int) -> None:
    """The last part may have fewer keys; several tiles of a program follow each other."""
    q = torch.randn(4, 1500, 8 * head, device="cuda").half()
    k, v = (torch.randn(4, tokens, 8 * head, device="cuda").half() for _ in range(2))
    compare(q, k, v, 8)


@pytest.mark.parametrize("head", [40, 80])
@pytest.mark.parametrize("tokens", [77, 154])
def test_many_tiles(tokens: int, head: int) -> None:
    """A program computes seven or eight tiles, of several heads and pictures."""
    q = torch.randn(16, 1536, 8 * head, device="cuda").half()
    k, v = (torch.randn(16, tokens, 8 * head, device="cuda").half() for _ in range(2))
    compare(q, k, v, 8)


def test_a_picture_that_is_not_finite_spoils_no_other() -> None:
    """A program computes tiles of several pictures with the same registers and memory."""
    for head, rows, tokens in ((40, 1536, 1536), (40, 1536, 77), (80, 384, 384), (80, 384, 77)):
        q = torch.randn(16, rows, 8 * head, device="cuda").half()
        k, v = (torch.randn(16, tokens, 8 * head, device="cuda").half() for _ in range(2))
        expected = long_attention(q, k, v, 8)
        q[3], k[5], v[7], v[9] = (float(bad) for bad in ("nan", "nan", "nan", "inf"))
        got = long_attention(q, k, v, 8)
        finite = [i for i in range(16) if i not in (3, 5, 7, 9)]
        assert torch.equal(got[finite], expected[finite])
        assert not got[[3, 5, 7, 9]].isfinite().any()


@pytest.mark.parametrize("head", [40, 80])
def test_nothing_else_is_written(head: int) -> None:
    """The last tile of a map has more rows than the map."""
    memory = torch.empty(5, 200, 2 * head, dtype=torch.float16, device="cuda")
    for n in (1, 3):
        q, k, v = packed(n, 200, 2, head=head)
        memory.fill_(7)
        run(q, k, v, 2, memory[1 : 1 + n])
        assert torch.equal(memory[1 : 1 + n], long_attention(q, k, v, 2))
        assert (memory[0] == 7).all()
        assert (memory[1 + n :] == 7).all()


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
