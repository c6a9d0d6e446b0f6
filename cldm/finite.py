"""The check that a picture was computed from usable numbers only; as uint8, NaN would look like black."""

import torch
from torch import Tensor

from cldm.request import Request

# Of latents, usually below 10, and of pixels, usually below 2. In float16 nothing is larger; in float32 squares would
# overflow within the VAE's norms, which then return a constant.
LIMIT = torch.finfo(torch.float16).max


def largest(x: Tensor, pixels: Tensor) -> Tensor:
    """Return the largest absolute values of n latents and of their pixels, [2, n]; NaN if any value is."""
    return torch.stack([x.abs().flatten(1).amax(1), pixels.abs().flatten(1).amax(1)])


def check_finite(found: Tensor, request: Request) -> None:
    """Raise ValueError if what `largest` has found for the request, [2] or [2, n], is NaN, infinite or beyond LIMIT."""
    for name, value in zip(("latent", "picture"), found.reshape(2, -1).amax(1).tolist(), strict=True):
        if not value <= LIMIT:
            raise ValueError(
                f"the {name} has values up to {value:g}, expected at most {LIMIT:g}: scale {request.scale:g}, strength "
                f"{request.strength:g} or these weights are too large; use a smaller scale or strength, precision "
                "fp32, weaker LoRAs or other weights"
            )
