"""LoRA files with their strengths: read together, and merged into weights."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ldm.config import Architecture
from ldm.weights import CheckpointError
from reading import parse_object, path_text, shown
from weights.folders import existing, read_json, resolve_file
from weights.lora import LARGEST, Patch, check_strength, merge, read_lora
from weights.lora_names import split_name
from weights.read import read_tensors

Loras = tuple[tuple[str, float], ...]  # files and strengths
Patches = Mapping[str, Sequence[tuple[Patch, float]]]  # by the names of the weights, in the order of the files
STEMS = ("pytorch_lora_weights", "adapter_model")  # of diffusers and of PEFT, in a folder
FILES = [f"{stem}.{kind}" for kind in ("safetensors", "bin") for stem in STEMS]
LARGEST_CHANGE = torch.finfo(torch.float16).max  # of a weight; the networks run in half precision on a GPU
METADATA = "lora_adapter_metadata"  # where diffusers keeps PEFT's settings in a safetensors file


def check_loras(loras: Sequence[tuple[Any, float]]) -> Loras:
    """Return files and strengths as a tuple. Raises TypeError or ValueError for anything else."""
    if not isinstance(loras, (tuple, list)):
        raise TypeError(f"loras: got {shown(loras)}, expected a list of (file, strength) pairs, [] for none")
    for one in loras:
        if not isinstance(one, (tuple, list)) or len(one) != 2:
            raise TypeError(f"loras: got {shown(one)}, expected pairs such as ('style.safetensors', 0.8)")
    return tuple((existing(path_text("loras", file)), check_strength(strength)) for file, strength in loras)


def lora_file(name: str) -> Path:
    """Return the path of a LoRA file; of a folder of diffusers or PEFT, the file in it."""
    return resolve_file(name, FILES, "LoRA")


def read_loras(loras: Loras, architecture: Architecture) -> Patches:
    """Read all files. Raises CheckpointError in one sentence for a file that is missing, damaged or does not fit."""
    patches: dict[str, list[tuple[Patch, float]]] = {}
    for name, strength in loras:
        path = lora_file(name)
        tensors = read_tensors(path, "LoRA")
        for weight, patch in read_lora(tensors | _alphas(path, tensors), f"LoRA {path}", architecture).items():
            if not (change := patch.bound() * abs(strength)) <= LARGEST_CHANGE:
                raise CheckpointError(
                    f"LoRA {path} at strength {strength:g} changes {weight} by up to {change:.3g}, expected at most "
                    f"{LARGEST_CHANGE:g}, the largest half-precision number: use a smaller strength, or another file"
                )
            patches.setdefault(weight, []).append((patch, strength))
    return patches


def merged(
    base: Mapping[str, Tensor], patches: Patches, names: Collection[str], device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Yield each name with the weight of `base`, float32 on the device, plus its patches if it has any."""
    for name in names:
        yield name, merge(base[name].to(device), patches.get(name, ()))


def _alphas(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the alphas that PEFT's settings give to layers without one: lora_alpha, next to the tensors."""
    settings = _settings(path)
    alpha = settings.get("lora_alpha")
    if alpha is None:
        return {}
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not abs(alpha) <= LARGEST:
        raise CheckpointError(
            f"LoRA {path} has lora_alpha {shown(alpha)} in its settings, expected a number: fetch it again"
        )
    if settings.get("alpha_pattern") or settings.get("rank_pattern") or settings.get("use_dora"):
        raise CheckpointError(
            f"LoRA {path} has an alpha or rank for each layer (alpha_pattern, rank_pattern) or is a DoRA, which is not "
            "supported: save it with one alpha for all layers, or merge it into its base"
        )
    alphas = {}
    for name, tensor in tensors.items():
        layer, role = split_name(name) or ("", "")
        if role == "down" and f"{layer}.alpha" not in tensors:
            rank = max(tensor.shape[0], 1) if tensor.dim() else 1
            factor = math.sqrt(rank) if settings.get("use_rslora") else 1.0  # rsLoRA scales by alpha / sqrt(rank)
            alphas[f"{layer}.alpha"] = torch.tensor(alpha * factor)
    return alphas


def _settings(path: Path) -> dict[str, Any]:
    config = path.with_name("adapter_config.json")
    if path.name.startswith("adapter_model.") and config.is_file():
        return read_json(config)
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA)
    except safetensors.SafetensorError:  # a PyTorch file, which has no metadata
        return {}
    try:
        settings = parse_object(text) if text else {}
    except ValueError as error:
        raise CheckpointError(
            f"LoRA {path} has damaged metadata ({METADATA} {error}): fetch it again, or save it without"
        ) from error
    return {key.removeprefix("unet."): value for key, value in settings.items() if not key.startswith("text_encoder.")}
