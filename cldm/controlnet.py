"""ControlNet (Zhang et al. 2023): a copy of the UNet's encoder that reads a hint and returns residuals for the UNet."""

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from ldm.attention import KeysValues
from ldm.config import ControlConfig, UNetConfig
from ldm.unet import Encoder
from ldm.zero_convolutions import Out, WithZeroConvolutions


class ControlNet(Encoder, WithZeroConvolutions):
    def __init__(self, unet: UNetConfig, control: ControlConfig) -> None:
        super().__init__(unet)
        self.input_hint_block = _hint_block(control.hint_channels, unet.model_channels)
        self.zero_convs = nn.ModuleList([nn.Sequential(nn.Conv2d(c, c, 1)) for c in self.skip_channels])
        self.middle_block_out = nn.Sequential(nn.Conv2d(self.middle_channels, self.middle_channels, 1))

    def hint(self, hint_image: Tensor) -> Tensor:
        """Edges [n, 3, 8h, 8w] in 0..1 -> [n, model_channels, h, w], the same for all steps."""
        return self.input_hint_block(hint_image)

    def residuals(self, x: Tensor, hint: Tensor, shifts: Iterable[Tensor], texts: Iterable[KeysValues]) -> list[Tensor]:
        """Latent x and the output of `hint` -> unscaled residuals for the UNet's skips and, last, for its middle."""
        skips, middle = self.encode(x, shifts, texts, hint)
        return [layer(feature) for layer, feature in zip(self.outputs, [*skips, middle], strict=True)]

    def scaled_residuals(
        self,
        x: Tensor,
        hint: Tensor,
        shifts: Iterable[Tensor],
        texts: Iterable[KeysValues],
        factors: Tensor,
        out: Out = None,
    ) -> list[Tensor]:
        """Return residuals times their factors [2n, residuals], for 2n pictures, which may be twice those of x.

        out: as for `ldm.zero_convolutions.scaled`.
        """
        skips, middle = self.encode(x, shifts, texts, hint)
        return self.scaled(self.outputs, [*skips, middle], factors, out)

    @property
    def outputs(self) -> list[nn.Conv2d]:
        """The 1x1 convolutions of the skips and, last, of the middle."""
        return [cast(nn.Conv2d, layer[0]) for layer in (*self.zero_convs, self.middle_block_out)]

    def forward(self, x: Tensor, hint_image: Tensor, t: Tensor, context: Tensor) -> list[Tensor]:
        return self.residuals(x, self.hint(hint_image), self.time_shifts(t), self.keys_values(context))


def _hint_block(channels: tuple[int, ...], out_channels: int) -> nn.Sequential:
    """3x3 convolutions with SiLU between them: two per scale; at each lower scale the first has stride 2."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, padding=1), nn.SiLU()]
    for width, wider in pairwise(channels):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
        layers += [nn.Conv2d(width, wider, 3, padding=1, stride=2), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], out_channels, 3, padding=1))
