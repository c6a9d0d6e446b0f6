"""The full-size model has the names and shapes of control_sd15_canny.pth."""

import hashlib

import torch

from cldm.model import ControlLDM
from ldm.config import load_architecture

# sha256 of the published checkpoint's tensors as sorted lines "name AxBxC", each ending in a newline.
LISTING = "206dd1ba11496e8c4d7158853b5e128d755956521a34e622393b002903441a9f"


def listing(model: ControlLDM) -> list[str]:
    return sorted(f"{name} {'x'.join(map(str, tensor.shape))}\n" for name, tensor in model.state_dict().items())


def build(architecture: str) -> ControlLDM:
    with torch.device("meta"):
        return ControlLDM(load_architecture(architecture))


def test_full_size_listing() -> None:
    lines = listing(build("sd15"))
    assert len(lines) == 1484
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == LISTING


def test_full_size_parameters() -> None:
    model = build("sd15")
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.unet, model.control, model.text)]
    assert counts == [859_520_964, 361_279_120, 123_060_480]
    assert sum(p.numel() for p in model.vae.encoder.parameters()) == 34_163_592
    assert sum(p.numel() for p in model.vae.decoder.parameters()) == 49_490_179


def test_small_model_has_the_same_blocks() -> None:
    """UNet and ControlNet have identical tensor names; the text encoder and the VAE may have fewer layers."""
    prefixes = ("model.diffusion_model.", "control_model.")
    small, full = (
        {name for name in build(architecture).state_dict() if name.startswith(prefixes)}
        for architecture in ("small", "sd15")
    )
    assert small == full
