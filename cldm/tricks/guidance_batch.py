"""Guidance in one batch: the prompt and the negative prompt in one pass of the networks instead of two.

Both passes compute the same until they first read the text. So n latents go in, and are repeated there for 2n texts.
"""

import torch
from torch import Tensor, nn

from ldm.attention import KeysValues, SpatialTransformer, TransformerBlock


def batch_guidance(model: nn.Module) -> None:
    """Let the transformers take more texts than maps, in place: 2n texts for n maps give the results of both passes."""
    for module in model.modules():
        if type(module) is SpatialTransformer:
            module.__class__, module.block.__class__ = RepeatingTransformer, RepeatingBlock


class RepeatingBlock(TransformerBlock):
    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = repeated(x, len(text[0]))
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class RepeatingTransformer(SpatialTransformer):
    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        return repeated(x, len(text[0])) + self.change(x, text)


def repeated(x: Tensor, rows: int) -> Tensor:
    """x [n, ...] over and over until it has `rows`, a multiple of n."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))
