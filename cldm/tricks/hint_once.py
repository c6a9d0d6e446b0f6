"""Computes the hint once per picture: ControlNet's convolutions of the edges do not depend on the step."""

from torch import Tensor, nn

from cldm.model import ControlLDM


class Hint(nn.Module):
    """Edges float32 [n, 3, 8h, 8w] -> (hint [n, model_channels, h, w],), for all steps."""

    def __init__(self, model: ControlLDM) -> None:
        super().__init__()
        self.block = model.control.input_hint_block

    def forward(self, hint_image: Tensor) -> tuple[Tensor]:
        return (self.block(hint_image.to(next(self.block.parameters()).dtype)),)
