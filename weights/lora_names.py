"""The names that LoRA files use for the layers of the UNet and of the text encoder."""

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ldm.clip import CLIPText
from ldm.config import Architecture
from ldm.diffusers_layout import diffusers_name
from ldm.shapes_only import shapes_only
from ldm.unet import UNet
from weights.kinds import WIDTHS

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
# What a file may put before a path with dots: nothing or the part's name (diffusers), the model (ComfyUI), PEFT's
# wrapper, or both.
PREFIXES = (
    "",
    "{part}.",
    "diffusion_model.",
    "base_model.model.",
    "base_model.model.{part}.",
    "{part}.base_model.model.",
)
# The layer's name, then the role: `.lora_down.weight` (kohya), `.lora_A.weight` or `.lora_A.ADAPTER.weight` (PEFT),
# `.lora.down.weight`, `_lora.down.weight` or `.lora_linear_layer.down.weight` (diffusers, newest first).
FACTOR = re.compile(r"(.+?)[._]lora(?:_linear_layer)?[._](down|up|mid|A|B)(?:\.\w+)?\.weight")
ALPHA = re.compile(r"(.+?)(?:[._]lora(?:_linear_layer)?)?\.alpha")
ROLES = {"A": "down", "B": "up"}
FOREIGN = {
    "a Stable Diffusion XL LoRA": r"lora_te[12]_|(base_model\.model\.)?text_encoder_2\.",
    "a LyCORIS LoHa": r".*\.hada_",
    "a LyCORIS LoKr": r".*\.lokr_",
    "a DoRA": r".*(\.dora_scale|lora_magnitude_vector)",
}
# The prompt's width, the columns of these layers' weights, differs between the models.
CROSS_ATTENTION = re.compile(r".*attn2[._](processor[._])?to_[kv]$")


def weight_shapes(architecture: Architecture) -> dict[str, torch.Size]:
    """Return ControlLDM's name and the shape of each weight of a linear layer or convolution that LoRA can change."""
    with shapes_only():
        parts = {UNET: UNet(architecture.unet), TEXT: CLIPText(architecture.text)}
    return {
        f"{prefix}{name}.weight": module.weight.shape
        for prefix, part in parts.items()
        for name, module in part.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }


def layer_names(weights: Iterable[str], architecture: Architecture) -> dict[str, str]:
    """Return each name that a file may use for a layer -> the layer's name in `weights`, which is ControlLDM's.

    kohya writes paths with underscores for dots. They are never split again, since names contain underscores too.
    """
    names: dict[str, str] = {}
    for weight in weights:
        layer = weight.removesuffix(".weight")
        if layer.startswith(UNET):
            paths, part, kohya = _unet_paths(layer.removeprefix(UNET), architecture), "unet", "lora_unet_"
        else:
            paths, part, kohya = _text_paths(layer.removeprefix(TEXT)), "text_encoder", "lora_te_"
        for path in paths:
            names |= {prefix.format(part=part) + path: weight for prefix in PREFIXES}
            names[kohya + path.replace(".", "_")] = weight
    return names


def _unet_paths(path: str, architecture: Architecture) -> Iterator[str]:
    """Yield the layer's paths: ours, which are LDM's, then those of diffusers, now and with attention processors."""
    yield path
    theirs = diffusers_name(f"{path}.weight", "unet", architecture).removesuffix(".weight")
    yield theirs
    if match := re.fullmatch(r"(.+\.attn[12])\.(to_q|to_k|to_v|to_out)(\.0)?", theirs):
        yield f"{match[1]}.processor.{match[2]}"


def _text_paths(path: str) -> Iterator[str]:
    """Yield the layer's paths with and without the level text_model, and those with attention processors."""
    old = re.sub(r"\.self_attn\.(q|k|v|out)_proj$", r".self_attn.to_\1", path)
    for name in dict.fromkeys((path, old)):
        yield name
        yield f"text_model.{name}"


def split_name(name: str) -> tuple[str, str] | None:
    """Return the layer's name and the tensor's role, down, up, mid or alpha; None if this is not LoRA's name."""
    if match := FACTOR.fullmatch(name):
        return match[1], ROLES.get(match[2], match[2])
    if match := ALPHA.fullmatch(name):
        return match[1], "alpha"
    return None


def foreign_kind(tensors: Mapping[str, Tensor], context_width: int) -> tuple[str, list[str]] | None:
    """Return what else this file is and the names that show it; None if it may be a LoRA or LoCon for this model.

    context_width: of this model's text encoder.
    """
    for kind, pattern in FOREIGN.items():
        if marks := [name for name in tensors if re.match(pattern, name)]:
            return kind, marks
    for width, model in WIDTHS.items():
        marks = [name for name, tensor in tensors.items() if _prompt_width(name, tensor) == width]
        if marks and width != context_width:
            return f"a {model} LoRA (cross attention of width {width})", marks
    return None


def _prompt_width(name: str, tensor: Tensor) -> int | None:
    layer, role = split_name(name) or ("", "")
    reads_prompt = role == "down" and tensor.dim() > 1 and CROSS_ATTENTION.fullmatch(layer)
    return tensor.shape[1] if reads_prompt else None
