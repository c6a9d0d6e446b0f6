"""Attention over tokens, and the transformer that the UNet puts on its feature maps."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.norm import GroupNorm

KeysValues = tuple[Tensor, Tensor]  # two tensors [n, tokens, width], heads still packed


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention on packed heads: q [n, i, h*d], k and v [n, j, h*d] -> [n, i, h*d]."""
    q, k, v = (rearrange(t, "n i (h d) -> n h i d", h=heads) for t in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "n h i d -> n i (h d)")


class Attention(nn.Module):
    """Attention of x over itself or over ready keys and values."""

    packed: Tensor | None

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.register_buffer("packed", None, persistent=False)

    def pack(self) -> None:
        """Lay the weights for q, k and v side by side, for one product in self-attention.

        They stay parameters of their own: views, which may be written in place, and are packed again when the module
        moves to another device or precision.
        """
        weights = [layer.weight for layer in (self.to_q, self.to_k, self.to_v)]
        self.packed = torch.cat([weight.data for weight in weights])
        for weight, part in zip(weights, self.packed.chunk(3), strict=True):
            weight.data = part

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Attention":
        """What .to(), .half() and the like do to every tensor: the weights are no views of one any more."""
        super()._apply(fn, recurse)
        if self.packed is not None:
            self.pack()
        return self

    def keys_values(self, context: Tensor) -> KeysValues:
        """Context [n, tokens, context_width] -> keys and values, each [n, tokens, width]."""
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, keys_values: KeysValues | None = None) -> Tensor:
        if self.packed is not None and keys_values is None:
            q, k, v = F.linear(x, self.packed).chunk(3, dim=-1)
        else:
            q, (k, v) = self.to_q(x), keys_values or self.keys_values(x)
        return self.to_out(attend(q, k, v, self.heads))


class GEGLU(nn.Module):
    """x * gelu(gate), both halves of one projection (Shazeer 2020, GLU Variants Improve Transformer)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # Identity stands where the original has its dropout, so that the keys agree.
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; each normalised before, added after."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.attn2 = Attention(width, context_width, heads)
        self.ff = FeedForward(width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = tiled(x, len(text[0]))
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer over the pixels of a feature map [n, c, h, w]; `text` holds the keys and values of its attn2.

    There may be more texts than maps, m n of them: the result then is that of the maps repeated m times, but what
    comes before the first look at the text is computed once.
    """

    def __init__(self, width: int, context_width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context_width, heads)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        height = x.shape[2]
        tokens = rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c")
        tokens = self.transformer_blocks[0](tokens, text)
        return tiled(x, len(tokens)) + self.proj_out(rearrange(tokens, "n (h w) c -> n c h w", h=height))

    @property
    def self_attention(self) -> Attention:
        return cast(TransformerBlock, self.transformer_blocks[0]).attn1

    @property
    def cross_attention(self) -> Attention:
        return cast(TransformerBlock, self.transformer_blocks[0]).attn2


def tiled(x: Tensor, rows: int) -> Tensor:
    """x [n, ...] over and over until it has `rows`, a multiple of n."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def causal_mask(x: Tensor) -> Tensor:
    """For tokens x [n, tokens, width]: [tokens, tokens], 0 where a token may look, else a large negative number.

    Finite, because minus infinity turns into NaN in half precision once a whole row is masked or scaled.
    """
    tokens = x.shape[1]
    return torch.full((tokens, tokens), -1e4, dtype=x.dtype, device=x.device).triu(1)
