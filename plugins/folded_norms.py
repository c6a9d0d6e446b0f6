"""Folded norms: the LayerNorms of a transformer inside the products around them.

With y the normalized row, y W^T + b = rstd * (x (W * gamma)^T - mean * sums) + shifts, where sums has the sum of each
row of W * gamma, and shifts is W beta + b. So the product before a norm also returns statistics of its rows, and the
product after it reads the rows themselves and applies mean and rstd to its sums: no kernel is left for the norm.
"""

from typing import cast

import torch
from torch import Tensor, nn

from ldm.attention import GEGLU, KeysValues, SpatialTransformer
from ldm.repeat import repeated
from plugins.compiling import compiles_half
from plugins.product.op import norm_geglu, norm_product, product, product_stats
from plugins.product.tiles import Sizes, fits


class Folded(nn.Module):
    """Weights of linear layers with the norm before them folded in; they must be derived again when weights change.

    weight [columns, width] in the layers' precision, sums and shifts [columns] in float32.
    """

    weight: Tensor
    sums: Tensor
    shifts: Tensor

    def __init__(self, norm: nn.LayerNorm, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.eps = norm.eps
        for name, value in zip(("weight", "sums", "shifts"), fold(norm, layers), strict=True):
            self.register_buffer(name, value, persistent=False)

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """The last arguments of `norm_product` and `norm_geglu`."""
        return self.weight, self.sums, self.shifts, self.eps

    def fold_again(self, norm: nn.LayerNorm, layers: list[nn.Linear]) -> None:
        """Compute the folded weights again, in place."""
        for old, new in zip((self.weight, self.sums, self.shifts), fold(norm, layers), strict=True):
            old.copy_(new)


def fold(norm: nn.LayerNorm, layers: list[nn.Linear]) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight, sums and shifts of a `Folded`."""
    plain = torch.cat([layer.weight.data for layer in layers])
    # The sums are those of the rounded weights, so that a constant row gives exactly the shifts.
    weight = (plain.float() * norm.weight.data.float()).to(plain.dtype)
    shifts = plain.float() @ norm.bias.data.float()
    if layers[0].bias is not None:
        shifts += torch.cat([layer.bias.data for layer in layers]).float()
    return weight, weight.float().sum(dim=1), shifts


class FoldedTransformer(SpatialTransformer):
    """A transformer under torch.compile that has no kernels for its LayerNorms. See `fold_norms`."""

    folded: nn.ModuleDict

    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        if not (compiles_half(x) and _fits(x, text)):
            return super().forward(x, text)
        block, n, texts = self.block, len(x), len(text[0])
        normal = self.norm(x).permute(0, 2, 3, 1).flatten(0, 2).contiguous()
        rows, stats = product_stats(normal, self.proj_in.weight.flatten(1), _bias(self.proj_in), None)
        q, k, v = norm_product(rows, stats, *self._folded("qkv")).unflatten(0, (n, -1)).chunk(3, dim=-1)
        attended = block.attn1.attend(q, k, v, block.attn1.heads).flatten(0, 1).contiguous()
        rows, stats = product_stats(attended, *_weights(block.attn1.to_out[0]), rows)
        # From here on there may be several texts for each map.
        maps, rows, stats = (repeated(one, len(one) // n * texts) for one in (x, rows, stats))
        q = norm_product(rows, stats, *self._folded("q")).unflatten(0, (texts, -1))
        attended = block.attn2.attend(q, *text, block.attn2.heads).flatten(0, 1).contiguous()
        rows, stats = product_stats(attended, *_weights(block.attn2.to_out[0]), rows)
        inner = norm_geglu(rows, stats, *self._folded("geglu"))
        rows = product(inner, *_weights(block.ff.out), rows)
        residual = maps.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
        rows = product(rows, self.proj_out.weight.flatten(1), _bias(self.proj_out), residual)
        return rows.view(texts, *x.shape[2:], -1).permute(0, 3, 1, 2)

    def derive(self) -> None:
        """Compute the folded weights again, in place."""
        for name, source in _sources(self).items():
            cast(Folded, self.folded[name]).fold_again(*source)

    def _folded(self, name: str) -> tuple[Tensor, Tensor, Tensor, float]:
        return cast(Folded, self.folded[name]).arguments


def fold_norms(model: nn.Module) -> None:
    """Turn the transformers of a model into `FoldedTransformer`s, in place.

    Weights and names stay the same; results differ only by rounding.
    """
    for module in list(model.modules()):
        if isinstance(module, SpatialTransformer) and not isinstance(module, FoldedTransformer):
            # A subclass of the module's own class, whose forward remains for what does not fit.
            module.__class__ = type(f"Folded{type(module).__name__}", (FoldedTransformer, type(module)), {})
            module.folded = nn.ModuleDict({name: Folded(*source) for name, source in _sources(module).items()})


def _sources(transformer: SpatialTransformer) -> dict[str, tuple[nn.LayerNorm, list[nn.Linear]]]:
    """Return the norms that are folded, each with the layers after it."""
    block = transformer.block
    attention = block.attn1
    return {
        "qkv": (block.norm1, [attention.to_q, attention.to_k, attention.to_v]),
        "q": (block.norm2, [block.attn2.to_q]),
        "geglu": (block.norm3, [cast(GEGLU, block.ff.net[0]).proj]),
    }


def _fits(x: Tensor, text: KeysValues) -> bool:
    width = x.shape[1]
    return fits(Sizes(max(len(x), len(text[0])) * x.shape[2] * x.shape[3], width, 4 * width))  # the widest product


def _weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return cast(Tensor, layer.weight), cast(Tensor, layer.bias)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None, "the layer has one"
    return layer.bias
