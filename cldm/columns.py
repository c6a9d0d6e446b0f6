"""Columns of one tensor that belong to the layers of ControlNet, the UNet's encoder and its decoder, in this order."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from cldm.model import ControlLDM
from ldm.unet import Encoder


@dataclass(frozen=True)
class Columns:
    """Those of one stage: where they start, and how many each of its layers has."""

    start: int
    widths: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + sum(self.widths)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Views of a tensor's last dimension, one per layer."""
        return list(tensor[..., self.start : self.end].split(self.widths, dim=-1))


def columns(model: ControlLDM, widths: Callable[[Encoder], list[int]]) -> tuple[Columns, Columns, Columns]:
    """Of ControlNet, encoder and decoder; `widths` tells how many each layer of a network has, in the order of use."""
    half, whole = widths(model.control), widths(model.unet)  # ControlNet has the layers of the UNet's encoder
    control = Columns(0, tuple(half))
    encoder = Columns(control.end, tuple(whole[: len(half)]))
    return control, encoder, Columns(encoder.end, tuple(whole[len(half) :]))
