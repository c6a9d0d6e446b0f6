"""Folded norms compared with plain transformers, with the ops replaced by the same arithmetic in PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cldm.tricks.guidance_batch import RepeatingBlock, RepeatingTransformer
from cldm.tricks.packed_qkv import pack_qkv
from ldm.attention import KeysValues, SpatialTransformer
from plugins import folded_norms
from plugins.derived import derive_weights
from plugins.folded_norms import FoldedTransformer, fold, fold_norms


def product(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return F.linear(x, weight, bias) + residual


def product_stats(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    y = F.linear(x, weight, bias)
    y = y if residual is None else y + residual
    return y, torch.stack((y.mean(1), y.var(1, correction=0)), dim=1)


def norm_product(x: Tensor, stats: Tensor, weight: Tensor, sums: Tensor, shifts: Tensor, eps: float) -> Tensor:
    mean, variance = stats[:, :1], stats[:, 1:]
    return (F.linear(x, weight) - mean * sums) / (variance + eps).sqrt() + shifts


def norm_geglu(x: Tensor, stats: Tensor, weight: Tensor, sums: Tensor, shifts: Tensor, eps: float) -> Tensor:
    value, gate = norm_product(x, stats, weight, sums, shifts, eps).chunk(2, dim=1)
    return value * F.gelu(gate)


@pytest.fixture
def in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (product, product_stats, norm_product, norm_geglu):
        monkeypatch.setattr(folded_norms, function.__name__, function)
    monkeypatch.setattr(folded_norms, "compiles_half", lambda x: True)


def transformer(width: int = 64) -> SpatialTransformer:
    torch.manual_seed(0)
    model = SpatialTransformer(width, 96, 2, 8).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0.1, 0.2)
    return model


def inputs(maps: int, texts: int, width: int = 64) -> tuple[Tensor, KeysValues]:
    x, k, v = (torch.randn(shape) for shape in ((maps, width, 4, 6), *[(texts, 77, width)] * 2))
    return x.double(), (k.double(), v.double())


@pytest.mark.usefixtures("in_pytorch")
@pytest.mark.parametrize("width", [64, 24, 96])
@pytest.mark.parametrize(("maps", "texts"), [(2, 2), (1, 2), (2, 4)])
def test_the_folded_transformer(maps: int, texts: int, width: int) -> None:
    model = transformer(width)
    pack_qkv(model)
    if texts > maps:
        model.__class__, model.block.__class__ = RepeatingTransformer, RepeatingBlock
    x, text = inputs(maps, texts, width)
    assert folded_norms._fits(x, text)
    expected = model(x, text)
    names = set(model.state_dict())
    fold_norms(model)
    assert isinstance(model, FoldedTransformer)
    assert set(model.state_dict()) == names, "weights keep their names"
    torch.testing.assert_close(model(x, text), expected, atol=1e-5, rtol=1e-5)  # shifts and sums are float32
    fold_norms(model)
    torch.testing.assert_close(model(x, text), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("in_pytorch")
def test_other_weights() -> None:
    """After new weights are written, the folded ones are derived again, in the same memory."""
    model = transformer()
    x, text = inputs(2, 2)
    fold_norms(model)
    assert isinstance(model, FoldedTransformer)
    addresses = [buffer.data_ptr() for buffer in model.folded.buffers()]
    for parameter in model.parameters():
        parameter.add_(0.1)
    derive_weights(model)
    assert [buffer.data_ptr() for buffer in model.folded.buffers()] == addresses
    got = model(x, text)
    torch.testing.assert_close(got, SpatialTransformer.forward(model, x, text), atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer()
    x, text = inputs(2, 2)
    expected = model(x, text)
    fold_norms(model)
    assert torch.equal(model(x, text), expected), "eager code"
    monkeypatch.setattr(folded_norms, "compiles_half", lambda x: True)
    monkeypatch.setattr(folded_norms, "fits", lambda sizes: False)
    assert torch.equal(model(x, text), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_folded_weights(bias: bool) -> None:
    torch.manual_seed(0)
    norm, layers = nn.LayerNorm(64), [nn.Linear(64, 32, bias=bias) for _ in range(3)]
    for parameter in norm.parameters():
        parameter.data.normal_()
    weight, sums, shifts = fold(norm, layers)
    x = torch.randn(5, 64)
    got = norm_product(x, product_stats(x, torch.eye(64), torch.zeros(64))[1], weight, sums, shifts, norm.eps)
    expected = torch.cat([layer(norm(x)) for layer in layers], dim=1)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert sums.dtype == shifts.dtype == torch.float32
    half = fold(norm.half(), [layer.half() for layer in layers])
    assert half[0].dtype == torch.float16
    assert torch.equal(half[1], half[0].float().sum(dim=1)), "the sums are those of the rounded weights"
