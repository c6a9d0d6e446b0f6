"""For tests of our kernels for Hopper GPUs: where they run, their errors, and that runs at the same time are equal."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from plugins.hopper.compile import HOPPER

IS_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == HOPPER
needs_hopper = pytest.mark.skipif(not IS_HOPPER, reason="needs a Hopper GPU")


def check(got: Tensor, half: Tensor, true: Tensor) -> None:
    """The error is at most twice that of PyTorch in half precision."""
    assert got.shape == half.shape == true.shape
    errors = [float((one.double() - true).norm() / true.norm()) for one in (got, half)]
    assert errors[0] <= 2 * errors[1]


def check_at_the_same_time(op: Callable[..., Tensor], cases: Sequence[Sequence[Any]]) -> None:
    """Kernels that run at the same time on several streams end, and compute the same as one after another."""
    expected = [op(*tensors) for tensors in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    got: list[list[Tensor]] = [[] for _ in cases]
    for _ in range(100):
        for results, stream, tensors in zip(got, streams, cases, strict=True):
            with torch.cuda.stream(stream):
                results.append(op(*tensors))
    torch.cuda.synchronize()
    for results, one in zip(got, expected, strict=True):
        assert all(torch.equal(result, one) for result in results)


def check_in_a_graph(op: Callable[..., Tensor], x: Tensor, *others: Any) -> None:
    """A graph of one call, captured once, computes the same as the call, for other values of x too."""
    expected = op(x, *others), op(-x, *others)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = op(x, *others)
    for one, factor in zip(expected, (1, -1), strict=True):
        x.mul_(factor)
        graph.replay()
        assert torch.equal(result, one)
