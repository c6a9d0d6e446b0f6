"""Computes the time shifts of all ResBlocks once for all steps of a plan: the time table.

One row of the table, `shift`, holds the shifts of ControlNet's ResBlocks first, then those of the UNet's encoder and
decoder, in order of use. A shift includes the bias of its ResBlock's first convolution, which then runs without a bias.
"""

from typing import cast

import torch
from torch import Tensor, nn

from cldm.model import ControlLDM
from ldm.blocks import Parts, ResBlock
from ldm.unet import Encoder


@torch.inference_mode()
def time_table(model: ControlLDM, timesteps: list[int]) -> Tensor:
    """Return the shifts of all ResBlocks of ControlNet and UNet, one row per timestep: [n, sum of the widths]."""
    t = torch.tensor(timesteps, device=next(model.parameters()).device)
    return torch.cat([*model.control.time_shifts(t), *model.unet.time_shifts(t)], dim=1)


def move_biases(model: nn.Module) -> None:
    """Change the ResBlocks in place to add the bias of their first convolution to the shift."""
    for module in model.modules():
        if type(module) is ResBlock:
            module.__class__ = BiasInShift


class BiasInShift(ResBlock):
    def shift(self, emb: Tensor) -> Tensor:
        return super().shift(emb) + cast(Tensor, self.first_convolution.bias)

    def forward(self, x: Tensor | Parts, shift: Tensor) -> Tensor:
        x, h = self.normalized(x)
        h = self.first_convolution._conv_forward(h, self.first_convolution.weight, bias=None)
        h = self.out_layers[0](h, shift)
        return self.last_convolution.add_to_skip(self.skip_connection, x, h)

    @property
    def first_convolution(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self.in_layers[2])


def shift_widths(network: Encoder) -> list[int]:
    """Return the number of columns in `shift` of each ResBlock, in order of use."""
    return [block.shift_width for block in network.res_blocks()]
