"""Our networks match diffusers and transformers on the same random weights, and diffusers folders load."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from cldm.checkpoint import Checkpoint
from cldm.model import ControlLDM
from ldm.config import load_architecture
from ldm.diffusers_layout import OLD_VAE
from ldm.weights import CheckpointError, randomize

pytest.importorskip("diffusers", reason="the networks are compared with diffusers")
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils as convert
from transformers import CLIPTextConfig, CLIPTextModel

TOLERANCE = 1e-4
SMALL = load_architecture("small")
BATCH, SIZE = 2, (16, 24)  # latents


@pytest.fixture(scope="module")
def model() -> ControlLDM:
    model = ControlLDM(SMALL)
    randomize(model, seed=1)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "x": torch.randn(BATCH, 4, *SIZE, generator=generator),
        "t": torch.tensor([951, 1]),
        "context": torch.randn(BATCH, 77, SMALL.unet.context_width, generator=generator),
        "hint_image": torch.rand(BATCH, 3, 8 * SIZE[0], 8 * SIZE[1], generator=generator),
        "picture": torch.rand(1, 3, 8 * SIZE[0], 8 * SIZE[1], generator=generator) * 2 - 1,
        "tokens": torch.randint(0, SMALL.text.vocabulary, (BATCH, 77), generator=generator),
    }


def unet_settings() -> dict[str, Any]:
    config, levels = SMALL.unet, len(SMALL.unet.channel_mult)
    attends = [level in config.attention_levels for level in range(levels)]
    return {
        "in_channels": 4,
        "block_out_channels": [config.model_channels * mult for mult in config.channel_mult],
        "layers_per_block": config.res_blocks,
        "cross_attention_dim": config.context_width,
        "attention_head_dim": config.heads,  # diffusers' name for the number of heads
        "norm_num_groups": config.groups,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
    }


def diffusers_unet(model: ControlLDM) -> Any:
    settings = unet_settings()
    ups = [name.replace("Down", "Up") for name in reversed(settings["down_block_types"])]
    unet = UNet2DConditionModel(**settings, up_block_types=ups)
    unet.load_state_dict(convert.convert_ldm_unet_checkpoint(model.state_dict(), dict(unet.config)))
    return unet.eval()


def diffusers_controlnet(model: ControlLDM) -> Any:
    hint = SMALL.control.hint_channels
    net = ControlNetModel(**unet_settings(), conditioning_embedding_out_channels=hint)
    net.load_state_dict(convert.convert_controlnet_checkpoint(model.state_dict(), dict(net.config)))
    return net.eval()


def diffusers_vae(model: ControlLDM) -> Any:
    config, levels = SMALL.vae, len(SMALL.vae.channel_mult)
    vae = AutoencoderKL(
        block_out_channels=[config.channels * mult for mult in config.channel_mult],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=config.res_blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
    )
    vae.load_state_dict(convert.convert_ldm_vae_checkpoint(model.state_dict(), dict(vae.config)))
    return vae.eval()


def transformers_text(model: ControlLDM) -> Any:
    config = SMALL.text
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            hidden_act="quick_gelu",
            eos_token_id=config.vocabulary - 1,
        )
    )
    tensors = convert.convert_ldm_clip_checkpoint(model.state_dict())
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    # Since transformers 5, the model's keys have no prefix, but the keys in its files still have one.
    if not any(name.startswith("text_model.") for name in text.state_dict()):
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    text.load_state_dict(tensors, strict=False)
    assert not set(tensors) - set(text.state_dict())
    return text.eval()


def test_unet_and_controlnet(model: ControlLDM, inputs: dict[str, Tensor]) -> None:
    x, t, context, hint_image = (inputs[name] for name in ("x", "t", "context", "hint_image"))
    with torch.inference_mode():
        ours = model.control(x, hint_image, t, context)
        down, middle = diffusers_controlnet(model)(x, t, context, hint_image, return_dict=False)
        assert max_error(ours, [*down, middle]) < TOLERANCE
        eps = diffusers_unet(model)(
            x, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        assert max_error([model.unet(x, t, context, ours)], [eps]) < TOLERANCE
        without = model.unet(x, t, context, [0.0] * len(ours))
        assert max_error([without], [diffusers_unet(model)(x, t, context).sample]) < TOLERANCE
    assert (without - eps).abs().max() > 0.01, "control has no effect, so the comparison does not cover it"


def test_vae(model: ControlLDM, inputs: dict[str, Tensor]) -> None:
    vae, scale = diffusers_vae(model), SMALL.vae.scale_factor
    with torch.inference_mode():
        moments = vae.encode(inputs["picture"]).latent_dist
        assert max_error([model.vae.encode(inputs["picture"])], [moments.mean * scale]) < TOLERANCE
        assert max_error([model.vae.decode(inputs["x"])], [vae.decode(inputs["x"] / scale).sample]) < TOLERANCE


def test_text_encoder(model: ControlLDM, inputs: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        theirs = transformers_text(model)(inputs["tokens"]).last_hidden_state
        assert max_error([model.text(inputs["tokens"])], [theirs]) < TOLERANCE


@pytest.fixture
def folders(model: ControlLDM, tmp_path: Path) -> tuple[Path, Path]:
    pipeline, controlnet = tmp_path / "sd15", tmp_path / "controlnet"
    diffusers_unet(model).save_pretrained(pipeline / "unet")
    diffusers_vae(model).save_pretrained(pipeline / "vae")
    transformers_text(model).save_pretrained(pipeline / "text_encoder")
    diffusers_controlnet(model).save_pretrained(controlnet)
    return pipeline, controlnet


def load(folders: tuple[Path, Path]) -> ControlLDM:
    return Checkpoint(f"{folders[0]}:{folders[1]}", "small", "given").load_model()


def test_folders_load_bit_for_bit(model: ControlLDM, folders: tuple[Path, Path]) -> None:
    loaded = load(folders).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_old_attention_names_load_too(model: ControlLDM, folders: tuple[Path, Path]) -> None:
    file = folders[0] / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    for new, old in OLD_VAE.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    assert any(".query." in name for name in tensors)
    safetensors.torch.save_file(tensors, file)
    loaded = load(folders).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_error_names_a_folder_that_does_not_fit(folders: tuple[Path, Path]) -> None:
    file = folders[1] / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["foreign"] = tensors.pop("controlnet_mid_block.weight")
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"controlnet holds 1 tensors .*, first foreign"):
        load(folders)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"no weights in .*controlnet \(it holds config\.json\): expected"):
        load(folders)
    assert json.loads((folders[1] / "config.json").read_text())["_class_name"] == "ControlNetModel"


def max_error(ours: Any, theirs: Any) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
