"""Stable Diffusion and ControlNet as one module, with the keys of `control_sd15_canny.pth`."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from cldm.controlnet import ControlNet
from ldm.clip import CLIPText
from ldm.config import Architecture
from ldm.diffusion import schedule_buffers
from ldm.unet import UNet
from ldm.vae import VAE


class ControlLDM(nn.Module):
    """UNet, ControlNet, VAE, text encoder, and the buffers of the noise schedule."""

    alphas_cumprod: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        # Each plain nn.Module() only provides a prefix of the checkpoint's keys.
        self.model = nn.Module()
        self.model.diffusion_model = UNet(architecture.unet)
        self.control_model = ControlNet(architecture.unet, architecture.control)
        self.first_stage_model = VAE(architecture.vae)
        self.cond_stage_model = nn.Module()
        self.cond_stage_model.transformer = nn.Module()
        self.cond_stage_model.transformer.text_model = CLIPText(architecture.text)
        for name, values in schedule_buffers(architecture.schedule).items():
            self.register_buffer(name, values)

    @torch.no_grad()
    def copy_weights(self, values: Mapping[str, Tensor]) -> None:
        """Copy values by name, in place; each tensor keeps its address, device, precision and layout."""
        tensors = self.state_dict()
        for name, value in values.items():
            tensors[name].copy_(value)

    def reset_buffers(self) -> None:
        """Compute the buffers of a model without values: the noise schedule and the positions."""
        for name, values in schedule_buffers(self.architecture.schedule).items():
            self.get_buffer(name).copy_(values)
        positions = self.text.embeddings.position_ids
        positions.copy_(torch.arange(positions.shape[-1]))

    @property
    def unet(self) -> UNet:
        return cast(UNet, self.model.diffusion_model)

    @property
    def control(self) -> ControlNet:
        return self.control_model

    @property
    def vae(self) -> VAE:
        return self.first_stage_model

    @property
    def text(self) -> CLIPText:
        return cast(CLIPText, cast(nn.Module, self.cond_stage_model.transformer).text_model)
