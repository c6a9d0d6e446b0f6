"""The text encoder of CLIP (Radford et al. 2021), with the key layout of transformers' CLIPTextModel."""

from typing import cast

import torch
from torch import Tensor, nn

from ldm.attention import attend, causal_mask
from ldm.config import TextConfig


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.out_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, mask))


class MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(quick_gelu(self.fc1(x)))


def quick_gelu(x: Tensor) -> Tensor:
    """Return CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config.width, config.heads)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = MLP(config.width, config.mlp_width)
        self.layer_norm2 = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Embeddings(nn.Module):
    position_ids: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.positions, config.width)
        self.register_buffer("position_ids", torch.arange(config.positions)[None])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.position_embedding.weight


class CLIPText(nn.Module):
    """Tokens int [n, 77] -> the last hidden state after the final layer norm, [n, 77, width]."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(config) for _ in range(config.layers))})
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)
        mask = causal_mask(x)
        for layer in self.layers:
            x = layer(x, mask)
        return self.final_layer_norm(x)

    @property
    def layers(self) -> list[Layer]:
        return cast(list[Layer], [*cast(nn.ModuleList, self.encoder["layers"])])
