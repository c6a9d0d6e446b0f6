"""Runs the text encoder and computes the keys and values of every cross-attention once per picture.

They depend on the prompts only. `kv` [2n, 77 * chunks, K] holds the keys and values of all layers: ControlNet's layers
first, then those of the UNet's encoder and decoder, in order of use. Plain prompts have one chunk.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cldm.columns import Columns
from cldm.model import ControlLDM
from ldm.attention import Attention, KeysValues
from ldm.unet import Encoder
from plugins.compiling import compiles_half


class KeysValuesOfText(nn.Module):
    """The text encoder, and the layers that project its output."""

    def __init__(self, model: ControlLDM) -> None:
        super().__init__()
        self.text = model.text
        transformers = [*model.control.transformers(), *model.unet.transformers()]
        self.cross_attentions = nn.ModuleList(layer.block.attn2 for layer in transformers)

    def project(self, context: Tensor) -> Tensor:
        """Context [2n, tokens, width] -> kv [2n, tokens, K]."""
        if compiles_half(context):
            # One product instead of 46: the stage takes 0.75 ms on an H200, with the copy of the weights; 0.94 before.
            layers = (cast(Attention, layer) for layer in self.cross_attentions)
            return F.linear(context, torch.cat([one.weight for layer in layers for one in (layer.to_k, layer.to_v)]))
        return pack([layer.keys_values(context) for layer in self.cross_attentions])  # type: ignore[operator]


class Text(KeysValuesOfText):
    """Tokens int32 [2n, 77], with and without the prompt -> (kv [2n, 77, K],)."""

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.project(self.text(tokens)),)


class WeightedText(KeysValuesOfText):
    """Tokens int32 and token_weights float32 [2n * chunks, 77] -> (kv [2n, 77 * chunks, K],).

    The chunks of a prompt are consecutive rows. Each chunk is encoded on its own.
    """

    def __init__(self, model: ControlLDM, texts: int) -> None:
        super().__init__(model)
        self.texts = texts  # 2n

    def forward(self, tokens: Tensor, token_weights: Tensor) -> tuple[Tensor]:
        context = weighted(self.text(tokens), token_weights)
        return (self.project(context.reshape(self.texts, -1, context.shape[-1])),)


def weighted(context: Tensor, weights: Tensor) -> Tensor:
    """Multiply the context [n, 77, width] by float32 weights [n, 77], then scale each row back to its mean."""
    wide = context.to(torch.promote_types(context.dtype, weights.dtype))
    # Both means come from the tokens' means, so their rounding errors cancel: they may be near 0.
    means = wide.mean(dim=-1)
    scales = means.sum(dim=1, keepdim=True) / (means * weights).sum(dim=1, keepdim=True)
    return (wide * (weights * scales)[..., None]).to(context.dtype)


def pack(texts: Sequence[KeysValues]) -> Tensor:
    """Concatenate the keys and values of all layers, [n, 77, width] each, to [n, 77, twice the sum of the widths]."""
    return torch.cat([tensor for keys_values in texts for tensor in keys_values], dim=-1)


def unpack(kv: Tensor, columns: Columns) -> list[KeysValues]:
    """Return the keys and values of the layers in `columns`, as views of `kv`; the inverse of `pack`."""
    parts = columns.split(kv)
    return list(zip(parts[::2], parts[1::2], strict=True))


def kv_widths(network: Encoder) -> list[int]:
    """Return the width of each layer's keys and values in `kv`: two numbers per layer."""
    return [layer.proj_in.out_channels for layer in network.transformers() for _ in range(2)]
