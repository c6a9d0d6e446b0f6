"""The folded text encoder compared with the plain one, with the ops replaced by the same arithmetic in PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.attention import attend, causal_mask
from ldm.clip import CLIPText
from ldm.config import TextConfig
from plugins import folded_text
from plugins.derived import derive_weights
from plugins.folded_text import FoldedText, fold_text
from plugins.product.statistics import statistics
from plugins.product.tiles import STEP, WIDE


def product_stats(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    y = F.linear(x, weight, bias) + residual
    return y, statistics(y)


def norm_product(x: Tensor, stats: Tensor, weight: Tensor, sums: Tensor, shifts: Tensor, eps: float) -> Tensor:
    means, squares = stats.unbind(dim=2)
    counts = torch.tensor([one.shape[1] for one in x.split(STEP, dim=1)])
    mean = (counts * means).sum(dim=1, keepdim=True) / x.shape[1]
    variance = (squares + counts * (means - mean) ** 2).sum(dim=1, keepdim=True) / x.shape[1]
    return (F.linear(x, weight) - mean * sums) / (variance + eps).sqrt() + shifts


def causal(q: Tensor, k: Tensor, v: Tensor, heads: int, is_causal: bool) -> Tensor:
    assert is_causal
    return attend(q, k, v, heads, causal_mask(q))


@pytest.fixture
def in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (product_stats, norm_product):
        monkeypatch.setattr(folded_text, function.__name__, function)
    monkeypatch.setattr(folded_text, "compiles_half", lambda x: True)


def encoder(width: int = 128) -> CLIPText:
    torch.manual_seed(0)
    model = CLIPText(TextConfig(vocabulary=50, positions=9, width=width, layers=2, heads=2, mlp_width=2 * width))
    for parameter in model.double().requires_grad_(False).parameters():
        parameter.normal_(0.1, 0.2)
    return model


TOKENS = torch.arange(18, dtype=torch.int32).reshape(2, 9)


@pytest.mark.usefixtures("in_pytorch")
@pytest.mark.parametrize("width", [128, 96, 40])
def test_the_folded_text_encoder(width: int) -> None:
    model = encoder(width)
    expected, names = model(TOKENS), set(model.state_dict())
    fold_text(model, causal)
    assert isinstance(model, FoldedText)
    assert set(model.state_dict()) == names, "weights keep their names"
    torch.testing.assert_close(model(TOKENS), expected, atol=1e-5, rtol=1e-5)  # statistics and sums are float32


@pytest.mark.usefixtures("in_pytorch")
def test_other_weights() -> None:
    """After new weights are written, the folded ones are derived again, in the same memory."""
    model = encoder()
    fold_text(model, causal)
    assert isinstance(model, FoldedText)
    addresses = [buffer.data_ptr() for buffer in model.folded.buffers()]
    for parameter in model.parameters():
        parameter.add_(0.1)
    derive_weights(model)
    assert [buffer.data_ptr() for buffer in model.folded.buffers()] == addresses
    torch.testing.assert_close(model(TOKENS), CLIPText.forward(model, TOKENS), atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder()
    expected = model(TOKENS)
    fold_text(model, causal)
    assert torch.equal(model(TOKENS), expected), "eager code"
    monkeypatch.setattr(folded_text, "compiles_half", lambda x: True)
    monkeypatch.setattr(folded_text, "fits", lambda sizes: False)
    assert torch.equal(model(TOKENS), expected)


@pytest.mark.parametrize(("columns", "width"), [(2 * STEP, STEP), (STEP + 32, STEP), (24, STEP), (2 * WIDE, WIDE)])
def test_statistics(columns: int, width: int) -> None:
    rows = torch.randn(3, columns) + 1
    groups = statistics(rows, width).unbind(dim=1)
    for (mean, squares), part in zip([one.T for one in groups], rows.split(width, dim=1), strict=True):
        torch.testing.assert_close(mean, part.mean(dim=1))
        torch.testing.assert_close(squares, ((part - mean[:, None]) ** 2).sum(dim=1))
