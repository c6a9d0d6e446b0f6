"""Weights of our ops must be inputs of compiled code, or views of them."""

import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from runtime.early_weights import check_weights


@pytest.fixture(scope="module", autouse=True)
def op() -> Iterator[None]:
    """An op like ours, which a CPU has too."""
    library = torch.library.Library("canny2image", "FRAGMENT")
    library.define("for_test(Tensor x, Tensor weight, Tensor? other_weight=None) -> Tensor")
    library.impl("for_test", lambda x, weight, other_weight=None: x @ weight, "CPU")
    yield
    library._destroy()


def run(x: Tensor, weight: Tensor, other_weight: Tensor | None = None) -> Tensor:
    result: Tensor = torch.ops.canny2image.for_test(x, weight, other_weight=other_weight)
    return result


VIEWS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, weight: run(x, weight),
    lambda x, weight: run(x + 1, weight.flatten().view(4, 4).t()[:, :2].detach()),
    lambda x, weight: run(x, weight, weight.permute(1, 0)),
]
COMPUTED: list[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = [
    ("weight from aten.mul.Tensor", lambda x, weight: run(x, 2 * weight)),
    ("weight from aten.clone.default", lambda x, weight: run(x, weight.t().contiguous().view(4, 4))),
    ("other_weight from aten.cat.default", lambda x, weight: run(x, weight, torch.cat([weight, weight]).t())),
    ("weight from aten.add_.Tensor", lambda x, weight: run(x, weight.add_(1))),
]


@pytest.mark.parametrize("function", VIEWS)
def test_inputs_and_views(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    check_weights(make_fx(function)(torch.ones(4, 4), torch.ones(4, 4)))


@pytest.mark.parametrize(("found", "function"), COMPUTED)
def test_computed_weights(found: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match=re.escape(f"canny2image.for_test.default got {found}, expected an input")):
        check_weights(make_fx(function)(torch.ones(4, 4), torch.arange(16.0).view(4, 4)))
