"""The check that a picture was computed from finite numbers only; as uint8, NaN would look like black."""

import torch
from torch import Tensor

from cldm.request import Request


def largest(x: Tensor, pixels: Tensor) -> Tensor:
    """Return the largest absolute value of the latent and of the pixels, [2]; NaN or infinite if any value is."""
    return torch.stack([x.abs().amax(), pixels.abs().amax()])


def check_finite(found: Tensor, request: Request, precision: torch.dtype) -> None:
    """Raise ValueError if `largest` has found NaN or infinity. precision: of the networks."""
    if not found.isfinite().all():
        what = "picture" if found[0].isfinite() else "latent"
        raise ValueError(
            f"the {what} has NaN or infinite values: scale {request.scale:g}, strength {request.strength:g} or these "
            f"weights exceed the range of {str(precision).removeprefix('torch.')}; use a smaller scale and strength, "
            "precision fp32, weaker LoRAs or other weights"
        )
