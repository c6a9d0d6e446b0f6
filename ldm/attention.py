"""Multi-head attention, and the transformer that the UNet applies to its feature maps."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.norm import GroupNorm

KeysValues = tuple[Tensor, Tensor]  # two tensors [n, tokens, width], heads still packed
Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # as the function `attend` without a mask


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention on packed heads: q [n, i, h*d], k and v [n, j, h*d] -> [n, i, h*d]."""
    q, k, v = (rearrange(t, "n i (h d) -> n h i d", h=heads) for t in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "n h i d -> n i (h d)")


class Attention(nn.Module):
    """Attention of x to itself or to precomputed keys and values. attend: the function, which may be replaced."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend: Attend = attend
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def keys_values(self, context: Tensor) -> KeysValues:
        """Context [n, tokens, context_width] -> keys and values, each [n, tokens, width]."""
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, keys_values: KeysValues | None = None) -> Tensor:
        k, v = keys_values or self.keys_values(x)
        return self.to_out(self.attend(self.to_q(x), k, v, self.heads))


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
        # Identity replaces the original's dropout, so that the keys match.
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + self.net(x)

    @property
    def out(self) -> nn.Linear:
        return cast(nn.Linear, self.net[2])


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and feed-forward, each with a norm before it and a residual."""

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
        x = x + self.attn2(self.norm2(x), text)
        return self.ff(self.norm3(x), x)


class ProjectOut(nn.Conv2d):
    """A 1x1 convolution that makes tokens a change of a map."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 1)

    def add_to(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Return x [n, c, h, w] plus the convolution of tokens [n, h * w, c]."""
        return x + self(rearrange(tokens, "n (h w) c -> n c h w", h=x.shape[2]))


class SpatialTransformer(nn.Module):
    """A transformer over the pixels of a feature map [n, c, h, w]. `text`: keys and values for its attn2."""

    def __init__(self, width: int, context_width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context_width, heads)])
        self.proj_out = ProjectOut(width)

    def tokens(self, x: Tensor, text: KeysValues) -> Tensor:
        return self.block(rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c"), text)

    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        return self.proj_out.add_to(x, self.tokens(x, text))

    @property
    def block(self) -> TransformerBlock:
        return cast(TransformerBlock, self.transformer_blocks[0])


def causal_mask(x: Tensor) -> Tensor:
    """Return the mask [tokens, tokens] for x [n, tokens, width]: 0 where a token may attend, else -10000.

    -10000 instead of minus infinity, which gives NaN if a whole row is masked; half precision can represent -10000.
    """
    tokens = x.shape[1]
    return torch.full((tokens, tokens), -1e4, dtype=x.dtype, device=x.device).triu(1)
