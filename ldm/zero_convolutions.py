"""ControlNet's zero convolutions: 1x1 convolutions that begin as zero, so that training begins without control."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ldm.repeat import repeated

Out = Sequence[Tensor] | None
Scaled = Callable[[Sequence[nn.Conv2d], Sequence[Tensor], Tensor, Out], list[Tensor]]  # as the function `scaled`


def scaled(layers: Sequence[nn.Conv2d], features: Sequence[Tensor], factors: Tensor, out: Out = None) -> list[Tensor]:
    """Return the convolution of each feature [n, c, h, w], repeated for 2n pictures, times its factors [2n, layers].

    out: buffers for the results. A function in place of this one may write them there and return the buffers.
    """
    each = zip(layers, features, factors.unbind(dim=1), strict=True)
    return [factor[:, None, None, None] * repeated(layer(x), len(factors)) for layer, x, factor in each]


class WithZeroConvolutions(nn.Module):
    """A network with zero convolutions. scaled: the function, which may be replaced."""

    scaled: Scaled = staticmethod(scaled)
