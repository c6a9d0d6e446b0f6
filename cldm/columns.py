"""Assigns columns of one tensor to layers: first ControlNet's, then the UNet encoder's, then the UNet decoder's."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from cldm.model import ControlLDM
from ldm.unet import Encoder


@dataclass(frozen=True)
class Columns:
    """The consecutive columns of one stage. widths: the number of columns in each tensor that `split` returns."""

    start: int
    widths: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + sum(self.widths)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Return views of the tensor along its last dimension, one for each of `widths`."""
        return list(tensor[..., self.start : self.end].split(self.widths, dim=-1))


def columns(model: ControlLDM, widths: Callable[[Encoder], list[int]]) -> tuple[Columns, Columns, Columns]:
    """Return the columns of ControlNet, encoder and decoder. `widths(network)` lists its widths in order of use."""
    half, whole = widths(model.control), widths(model.unet)  # ControlNet has the same layers as the UNet's encoder
    control = Columns(0, tuple(half))
    encoder = Columns(control.end, tuple(whole[: len(half)]))
    return control, encoder, Columns(encoder.end, tuple(whole[len(half) :]))
