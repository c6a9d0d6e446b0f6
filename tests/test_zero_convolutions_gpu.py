"""The kernel of the zero convolutions: errors, guidance, factors, and that runs at the same time are equal."""

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")

from ldm.zero_convolutions import scaled
from plugins.zero_convolutions.op import empty, zero_convolutions
from tests.hopper import check, check_at_the_same_time, check_in_a_graph, needs_hopper

pytestmark = [pytest.mark.gpu, needs_hopper]
# Channels, rows, columns, and maps for `pictures` of them.
SD15 = [
    *((320, 32, 48, maps) for maps in (1, 2, 2)),
    (320, 16, 24, 2),
    *[(640, 16, 24, 2)] * 2,
    (640, 8, 12, 2),
    *[(1280, 8, 12, 2)] * 2,
    *[(1280, 4, 6, 2)] * 4,
]
SMALL = [(32 * min(c // 320, 3), *rest) for c, *rest in SD15]
FOUR = [(c, h, w, 4 * maps) for c, h, w, maps in SD15]  # pictures
ODD = [(64, 1, 1, 1), (192, 7, 11, 3), (128, 5, 13, 6)]
NARROW = [(8, 7, 11, 3), (24, 1, 1, 1), (40, 5, 13, 6), (72, 3, 5, 3), (104, 9, 7, 6)]
Case = tuple[list[Tensor], list[nn.Conv2d], Tensor]


def case(sizes: list[tuple[int, int, int, int]], pictures: int) -> Case:
    torch.manual_seed(0)
    layers = [nn.Conv2d(c, c, 1).cuda().half().to(memory_format=torch.channels_last) for c, *_ in sizes]  # type: ignore[call-overload]
    xs = [torch.randn(n, c, h, w).half().cuda().to(memory_format=torch.channels_last) for c, h, w, n in sizes]
    factors = torch.randn(pictures, len(sizes)).half().cuda()
    factors[-1, 0] = 0.0
    return xs, [layer.requires_grad_(False) for layer in layers], factors


def run(factors: Tensor, xs: list[Tensor], layers: list[nn.Conv2d]) -> list[Tensor]:
    biases = [layer.bias for layer in layers if layer.bias is not None]
    results = empty(xs, len(factors))
    zero_convolutions(xs, [layer.weight for layer in layers], biases, factors, results)
    return results


@pytest.mark.parametrize(
    ("sizes", "pictures"), [(SD15, 2), (FOUR, 8), (ODD, 6), (SMALL, 2), (NARROW, 6), (SD15[-1:], 2)]
)
def test_errors(sizes: list[tuple[int, int, int, int]], pictures: int) -> None:
    xs, layers, factors = case(sizes, pictures)
    got, half = run(factors, xs, layers), scaled(layers, xs, factors)
    true = scaled([layer.double() for layer in layers], [x.double() for x in xs], factors.double())
    for one, other, exact in zip(got, half, true, strict=True):
        assert one.is_contiguous(memory_format=torch.channels_last)
        check(one, other, exact)
    assert not got[0][-1].any()


def test_two_streams() -> None:
    cases = [case(sizes, 6) for sizes in (ODD, ODD[:2], ODD[1:])]
    check_at_the_same_time(lambda *tensors: run(*tensors)[-1], [(factors, xs, layers) for xs, layers, factors in cases])


def test_in_a_graph() -> None:
    xs, layers, factors = case(SD15, 2)
    check_in_a_graph(lambda factors: run(factors, xs, layers)[3], factors)
