"""Creates the networks of the diffusers and transformers libraries with the weights of a `ControlLDM`."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from cldm.model import ControlLDM
from ldm.config import Architecture
from ldm.diffusers_layout import diffusers_name


@dataclass(frozen=True)
class Networks:
    """`text`, `control` and `unet` are modules, `decode` is a method of the autoencoder; all may be compiled.

    Weights and activations have `dtype`; latents and eps are passed and returned as float32.
    """

    text: Any
    control: Any
    unet: Any
    decode: Any
    scale_factor: float
    dtype: torch.dtype
    compiled: bool

    def context(self, tokens: Tensor) -> Tensor:
        """Tokens int [n, 77] -> the last hidden state [n, 77, width]."""
        return self.text(tokens).last_hidden_state

    def eps(self, x: Tensor, t: Tensor, context: Tensor, hint_image: Tensor) -> Tensor:
        """x [n, 4, h, w], timesteps int [n] -> eps float32 [n, 4, h, w], with ControlNet at full strength."""
        x = x.to(self.dtype)
        down, middle = self.control(x, t, context, hint_image, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.unet(x, t, context, **residuals, return_dict=False)[0].float()

    def pixels(self, x: Tensor) -> Tensor:
        """x [n, 4, h, w] -> float32 [n, 3, 8h, 8w] in about -1..1."""
        return self.decode((x / self.scale_factor).to(self.dtype), return_dict=False)[0].float()


def check_diffusers() -> None:
    """Raise ValueError if diffusers is not installed."""
    if find_spec("diffusers") is None:
        raise ValueError("the peers need the diffusers library, which is not installed: run ./preprocess.sh dev")


def make_networks(model: ControlLDM, device: torch.device, dtype: torch.dtype, compiled: bool) -> Networks:
    """Return the libraries' networks with the model's weights. If `compiled`, each compiles at its first call.

    The networks share the model's tensors where device, dtype and memory format are the same.
    """
    unet, control, vae = _modules(model)
    modules = [_text(model), control, unet, vae]
    for module in modules:
        # Use torch's `to`: diffusers overrides it and warns about float32 modules even if there are none.
        nn.Module.to(module.eval().requires_grad_(False), device=device, dtype=dtype)
        if compiled:  # diffusers' guides to faster inference recommend this memory format
            module.to(memory_format=torch.channels_last)
    parts = [*modules[:3], vae.decode]
    text, control, unet, decode = map(torch.compile, parts) if compiled else parts
    return Networks(text, control, unet, decode, model.architecture.vae.scale_factor, dtype, compiled)


def _modules(model: ControlLDM) -> tuple[Any, Any, Any]:
    """Return UNet2DConditionModel, ControlNetModel and AutoencoderKL with the model's weights."""
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel  # slow to import

    architecture = model.architecture
    downs = _unet_settings(architecture)
    ups = [name.replace("Down", "Up") for name in reversed(downs["down_block_types"])]
    with torch.device("meta"):  # no need to initialize weights that are loaded below
        unet = UNet2DConditionModel(**downs, up_block_types=ups)
        control = ControlNetModel(**downs, conditioning_embedding_out_channels=architecture.control.hint_channels)
        vae = AutoencoderKL(**_vae_settings(architecture))
    for module, ours, part in (
        (unet, model.unet, "unet"),
        (control, model.control, "controlnet"),
        (vae, model.vae, "vae"),
    ):
        module.load_state_dict(_renamed(ours, part, architecture), assign=True)
    return unet, control, vae


def _text(model: ControlLDM) -> Any:
    """Return CLIPTextModel with the model's weights. Its tensor names are ours; transformers 4 adds a prefix."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = model.architecture.text
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            hidden_act="quick_gelu",
            bos_token_id=config.vocabulary - 2,
            eos_token_id=config.vocabulary - 1,
        )
    )
    prefix = "text_model." if hasattr(text, "text_model") else ""
    tensors = {prefix + name: tensor for name, tensor in model.text.state_dict().items()}
    text.load_state_dict(
        {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}, assign=True
    )
    return text


def _renamed(module: nn.Module, part: str, architecture: Architecture) -> dict[str, Tensor]:
    tensors = {diffusers_name(name, part, architecture): tensor for name, tensor in module.state_dict().items()}
    # The autoencoder's attention uses 1x1 convolutions in our model and linear layers in diffusers.
    is_linear = {name for name in tensors if part == "vae" and ".attentions." in name and tensors[name].dim() == 4}
    return {name: tensor[..., 0, 0] if name in is_linear else tensor for name, tensor in tensors.items()}


def _unet_settings(architecture: Architecture) -> dict[str, Any]:
    config = architecture.unet
    attends = [level in config.attention_levels for level in range(len(config.channel_mult))]
    return {
        "in_channels": config.in_channels,
        "block_out_channels": [config.model_channels * mult for mult in config.channel_mult],
        "layers_per_block": config.res_blocks,
        "cross_attention_dim": config.context_width,
        "attention_head_dim": config.heads,  # diffusers' name for the number of heads
        "norm_num_groups": config.groups,
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
    }


def _vae_settings(architecture: Architecture) -> dict[str, Any]:
    config = architecture.vae
    return {
        "block_out_channels": [config.channels * mult for mult in config.channel_mult],
        "down_block_types": ["DownEncoderBlock2D"] * len(config.channel_mult),
        "up_block_types": ["UpDecoderBlock2D"] * len(config.channel_mult),
        "layers_per_block": config.res_blocks,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.groups,
    }
