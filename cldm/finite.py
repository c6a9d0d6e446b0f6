"""The check that a picture was computed from usable numbers only; as uint8, NaN would look like black."""

import torch
from torch import Tensor

from cldm.request import Request

# Of latents, usually below 10, and of pixels, usually below 2. In float16 nothing is larger; in float32 squares would
# overflow within the VAE's norms, which then return a constant.
LIMIT = torch.finfo(torch.float16).max


def largest(x: Tensor, pixels: Tensor) -> Tensor:
    """Return the largest absolute value of the latent and of the pixels, [2]; NaN if any value is."""
    return torch.stack([x.abs().amax(), pixels.abs().amax()])


def check_finite(found: Tensor, request: Request) -> None:
    """Raise ValueError if a value that `largest` has found is NaN, infinite or beyond LIMIT."""
    for name, value in zip(("latent", "picture"), found.tolist(), strict=True):
        if not value <= LIMIT:
            raise ValueError(
                f"the {name} has values up to {value:g}, expected at most {LIMIT:g}: scale {request.scale:g}, strength "
                f"{request.strength:g} or these weights are too large; use a smaller scale or strength, precision "
                "fp32, weaker LoRAs or other weights"
            )
