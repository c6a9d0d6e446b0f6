"""Packs self-attention: one matrix product for query, key and value, with their weights in one tensor."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.attention import Attention, KeysValues, TransformerBlock


def pack_qkv(model: nn.Module) -> None:
    """Pack the self-attentions of all transformers, in place."""
    for module in model.modules():
        if isinstance(module, TransformerBlock):
            pack(module.attn1)


def pack(attention: Attention) -> None:
    """Pack the weights of q, k and v into one tensor, in place.

    The weights remain separate parameters: views of the packed tensor, which may be written in place. The module packs
    them again when it moves to another device or precision.
    """
    weights = [layer.weight for layer in (attention.to_q, attention.to_k, attention.to_v)]
    rows, columns = weights[0].shape
    packed = weights[0].data.new_empty(3 * rows, columns)  # not torch.cat, which for shapes only imports the compiler
    for weight, part in zip(weights, packed.chunk(3), strict=True):
        weight.data = part.copy_(weight.data)
    attention.__class__ = PackedAttention
    attention.register_buffer("packed", packed, persistent=False)


class PackedAttention(Attention):
    packed: Tensor | None  # None: use the separate weights

    def forward(self, x: Tensor, keys_values: KeysValues | None = None) -> Tensor:
        if self.packed is None or keys_values is not None:
            return super().forward(x, keys_values)
        q, k, v = F.linear(x, self.packed).chunk(3, dim=-1)
        return self.to_out(self.attend(q, k, v, self.heads))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedAttention":
        """Pack again, because .to(), .half() and similar calls create a new tensor for each weight."""
        super()._apply(fn, recurse)
        if self.packed is not None:
            pack(self)
        return self
