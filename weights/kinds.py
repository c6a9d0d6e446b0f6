"""What a file of tensors is, by its names and shapes: to load it, or to say what it is where it cannot be loaded."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from ldm.diffusers_layout import PARTS

BASE, CONTROL = "model.diffusion_model.", "control_model."
# Tensors that only one part has -> the part, for files without prefixes; the first match counts.
MARKS = {
    "input_hint_block.0.weight": "controlnet",
    "controlnet_cond_embedding.conv_in.weight": "controlnet",
    "output_blocks.0.0.in_layers.2.weight": "unet",
    "up_blocks.0.resnets.0.conv1.weight": "unet",
    "decoder.conv_in.weight": "vae",
    "encoder.conv_in.weight": "vae",
    "text_model.embeddings.token_embedding.weight": "text_encoder",
    "embeddings.token_embedding.weight": "text_encoder",
}
NAMES = {"unet": "a UNet", "vae": "a VAE", "text_encoder": "a text encoder", "controlnet": "a ControlNet"}
# Parts of names that give a file of another kind away -> what it is.
FOREIGN = {
    "lora_controlnet": "a Control-LoRA",
    "lora_": "a LoRA",
    ".lora.": "a LoRA",
    "_lora.": "a LoRA",
    "hada_w1": "a LoHa",
    "lokr_w1": "a LoKr",
    "emb_params": "a textual-inversion embedding",
    "string_to_param": "a textual-inversion embedding",
    "ip_adapter.": "an IP-Adapter",
    "image_proj.": "an IP-Adapter",
    "motion_modules.": "an AnimateDiff motion module",
    "joint_blocks.": "a Stable Diffusion 3 checkpoint",
    "double_blocks.": "a FLUX checkpoint",
    "label_emb.": "a Stable Diffusion XL checkpoint",
    "add_embedding.": "a Stable Diffusion XL checkpoint",
    "conditioner.embedders.": "a Stable Diffusion XL checkpoint",
    "cond_stage_model.model.": "a Stable Diffusion 2 checkpoint",
    "adapter.body.": "a T2I-Adapter",
    "body.0.block1.": "a T2I-Adapter",
    "v_pred": "a checkpoint that predicts v",
}
WIDTHS = {1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}  # of cross-attention's context
CHANNELS = {9: "an inpainting checkpoint", 8: "an instruct-pix2pix checkpoint"}  # of the UNet's input
ADVICE = {
    "a LoRA": "give it as loras=[(file, weight)] (--lora FILE:WEIGHT)",
    "a VAE": "give it as vae= (--vae)",
    "a textual-inversion embedding": "give it as embeddings= (--embedding)",
    "a checkpoint": "give it as the checkpoint (--weights)",
    "a ControlNet": "give it with its base as BASE:CONTROL",
}


def part_of(names: Iterable[str]) -> str | None:
    """Return the part that a file without prefixes contains."""
    known = set(names)
    return next((part for mark, part in MARKS.items() if mark in known), None)


def foreign(tensors: Mapping[str, Tensor]) -> str | None:
    """Return what a file is that belongs to another model or is no part of one; None for any other."""
    for mark, kind in FOREIGN.items():
        if any(mark in name for name in tensors):
            return kind
    for name, tensor in tensors.items():
        if name.endswith("attn2.to_k.weight") and tensor.dim() == 2 and tensor.shape[1] in WIDTHS:
            return f"a {WIDTHS[tensor.shape[1]]} network"
        first = name.removeprefix(BASE) in ("input_blocks.0.0.weight", "conv_in.weight")
        if first and tensor.dim() == 4 and tensor.shape[1] in CHANNELS:
            return CHANNELS[tensor.shape[1]]
    if len(tensors) == 1 and next(iter(tensors.values())).dim() <= 2:
        return "a textual-inversion embedding"
    return None


def whole(tensors: Mapping[str, Tensor]) -> str | None:
    """Return what a file of Stable Diffusion 1.5 is, or a file that `foreign` knows; None for any other."""
    parts = {name for prefix, name in PARTS.items() if any(one.startswith(prefix) for one in tensors)}
    part = next(iter(parts)) if len(parts) == 1 else part_of(tensors)
    return foreign(tensors) or ("a checkpoint" if len(parts) > 1 else NAMES[part] if part else None)


def advice(kind: str) -> str:
    return ADVICE.get(kind, "expected Stable Diffusion 1.5 and a ControlNet for it")
