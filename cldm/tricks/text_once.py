"""Runs the text encoder and computes the keys and values of every cross-attention once per picture.

They depend on the prompts only. `kv` [2n, 77, K] holds the keys and values of all layers: ControlNet's layers first,
then those of the UNet's encoder and decoder, in order of use.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cldm.columns import Columns
from cldm.model import ControlLDM
from ldm.attention import KeysValues
from ldm.unet import Encoder


class Text(nn.Module):
    """Tokens int32 [2, 77], prompt and negative prompt -> (kv [2n, 77, K],), with each row n times."""

    def __init__(self, model: ControlLDM, samples: int) -> None:
        super().__init__()
        self.text, self.samples = model.text, samples
        transformers = [*model.control.transformers(), *model.unet.transformers()]
        self.cross_attentions = nn.ModuleList(layer.block.attn2 for layer in transformers)

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        context = self.text(tokens)
        kv = pack([layer.keys_values(context) for layer in self.cross_attentions])  # type: ignore[operator]
        return (kv.repeat_interleave(self.samples, dim=0),)


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
