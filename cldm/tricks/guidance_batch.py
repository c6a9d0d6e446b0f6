"""Batches guidance: runs prompt and negative prompt in one pass of the networks instead of two.

The two passes are identical up to the first layer that reads the text. That layer repeats the n feature maps for the 2n
texts.
"""

from torch import Tensor, nn

from ldm.attention import KeysValues, SpatialTransformer, TransformerBlock
from ldm.repeat import repeated


def batch_guidance(model: nn.Module) -> None:
    """Change the transformers in place to accept 2n texts for n feature maps and return both passes' outputs."""
    for module in model.modules():
        if type(module) is SpatialTransformer:
            module.__class__, module.block.__class__ = RepeatingTransformer, RepeatingBlock


class RepeatingBlock(TransformerBlock):
    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = repeated(x, len(text[0]))
        x = x + self.attn2(self.norm2(x), text)
        return self.ff(self.norm3(x), x)


class RepeatingTransformer(SpatialTransformer):
    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        return self.proj_out.add_to(repeated(x, len(text[0])), self.tokens(x, text))
