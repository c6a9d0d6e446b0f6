"""Translates the tensor names of `ControlLDM` to the names that the diffusers library uses."""

import re
from collections.abc import Callable

from ldm.config import Architecture

# Key prefix of each part of ControlLDM -> the diffusers folder that contains this part.
PARTS = {
    "model.diffusion_model.": "unet",
    "first_stage_model.": "vae",
    "cond_stage_model.transformer.": "text_encoder",
    "control_model.": "controlnet",
}
RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
HEADS_AND_TAILS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block_out.0": "controlnet_mid_block",
    "norm_out": "conv_norm_out",
    "nin_shortcut": "conv_shortcut",
    "mid.attn_1.norm": "mid_block.attentions.0.group_norm",
    "mid.attn_1.q": "mid_block.attentions.0.to_q",
    "mid.attn_1.k": "mid_block.attentions.0.to_k",
    "mid.attn_1.v": "mid_block.attentions.0.to_v",
    "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0",
    "downsample.conv": "downsamplers.0.conv",
    "upsample.conv": "upsamplers.0.conv",
}
# New -> old names of the VAE's attention layers; the files of Stable Diffusion 1.5 still have the old ones.
OLD_VAE = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def diffusers_name(name: str, part: str, architecture: Architecture) -> str:
    """Return the diffusers name of a tensor. name: without the part's prefix. part: one of the values of PARTS."""
    if part == "text_encoder":
        return name
    rename = _vae_block if part == "vae" else _unet_block
    stem, _, leaf = rename(name, architecture).rpartition(".")
    for ours, theirs in {**RES_BLOCK, **HEADS_AND_TAILS}.items():
        stem = re.sub(rf"(^|\.){re.escape(ours)}$", rf"\g<1>{theirs}", stem)
    return f"{stem}.{leaf}"


def _unet_block(name: str, architecture: Architecture) -> str:
    per_level = architecture.unet.res_blocks + 1
    top = len(architecture.unet.channel_mult) - 1

    def down(match: re.Match[str]) -> str:
        (level, j), layer = divmod(int(match[1]) - 1, per_level), match[2]
        if int(match[1]) == 0:
            return match[0]
        return f"down_blocks.{level}." + (
            "downsamplers.0.conv" if layer == "0.op" else f"{('resnets', 'attentions')[int(layer)]}.{j}"
        )

    def up(match: re.Match[str]) -> str:
        (level, j), layer = divmod(int(match[1]), per_level), match[2]
        attends = top - level in architecture.unet.attention_levels
        kind = "resnets" if layer == "0" else "attentions" if layer == "1" and attends else "upsamplers"
        return f"up_blocks.{level}.{kind}.{0 if kind == 'upsamplers' else j}"

    def hint(match: re.Match[str]) -> str:
        convolution, last = int(match[1]) // 2, 2 * len(architecture.control.hint_channels) - 1
        place = {0: "conv_in", last: "conv_out"}.get(convolution, f"blocks.{convolution - 1}")
        return f"controlnet_cond_embedding.{place}"

    rules: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        (r"^input_blocks\.(\d+)\.(0\.op|\d)", down),
        (r"^output_blocks\.(\d+)\.(\d)", up),
        (r"^middle_block\.(\d)", lambda m: f"mid_block.{('resnets.0', 'attentions.0', 'resnets.1')[int(m[1])]}"),
        (r"^input_hint_block\.(\d+)", hint),
        (r"^zero_convs\.(\d+)\.0", lambda m: f"controlnet_down_blocks.{m[1]}"),
    ]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _vae_block(name: str, architecture: Architecture) -> str:
    top = len(architecture.vae.channel_mult) - 1
    name = re.sub(r"^encoder\.down\.(\d)", r"encoder.down_blocks.\1", name)
    name = re.sub(r"^decoder\.up\.(\d)", lambda m: f"decoder.up_blocks.{top - int(m[1])}", name)
    name = re.sub(r"\.mid\.block_(\d)", lambda m: f".mid_block.resnets.{int(m[1]) - 1}", name)
    return re.sub(r"\.block\.(\d)", r".resnets.\1", name)
