"""Names of tensors in the layouts that files have -> the names in `ControlLDM`, by one set of rules for all files.

LDM's layout has one prefix for each part, or none in a file that holds one part alone; diffusers has its own names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from ldm.config import Architecture
from ldm.diffusers_layout import OLD_VAE, PARTS, diffusers_name
from weights.kinds import part_of

PREFIX_OF = {part: prefix for prefix, part in PARTS.items()}
# What files hold besides the weights and no picture depends on: averages, losses, heads of CLIP, counters.
HARMLESS = re.compile(
    r"model_ema\.|(first_stage_model\.)?loss\.|cond_stage_model\.(transformer\.)?(logit_scale|text_projection)"
    r"|logit_scale$|text_projection(\.weight)?$|denoiser\.(sigmas|log_sigmas)$|scale_factor$|global_step$"
)


@dataclass
class Parts:
    """The tensors of a file or folder under our names, by part.

    raw: all tensors under the file's names. schedule: its schedule buffers. dropped: the names of harmless tensors.
    unknown: the names of all others. difference: the ControlNet's tensors are differences from the base.
    """

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    raw: dict[str, Tensor] = field(default_factory=dict)
    schedule: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    difference: bool = False

    def update(self, other: "Parts") -> None:
        self.tensors |= other.tensors
        self.raw |= other.raw
        self.schedule |= other.schedule
        self.dropped += other.dropped
        self.unknown += other.unknown
        self.difference |= other.difference

    def fitting(self, shapes: Mapping[str, torch.Size]) -> int:
        """Return how many tensors have the shape that the model's have."""
        return sum(tensor.shape == shapes[name] for part in self.tensors.values() for name, tensor in part.items())


def sort_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], architecture: Architecture, part: str | None = None
) -> Parts:
    """Sort the tensors of one file.

    shapes: of all weights by our names; schedule buffers have one dimension and no dot in their name.
    part: the only part that the file can hold; by default found out from the names.
    """
    found, part = Parts(raw=dict(tensors)), part or (None if _has_prefixes(tensors) else part_of(tensors))
    names = tuple(shapes)
    for name, tensor in tensors.items():
        if name == "difference":
            found.difference = True
        elif name.endswith("position_ids"):
            continue  # a constant, which is computed
        elif HARMLESS.match(name):
            found.dropped.append(name)
        elif "." not in name and name in shapes:
            found.schedule[name] = tensor
        elif ours := _ours(name, part, names, shapes, architecture):
            which, full = ours
            found.tensors.setdefault(which, {})[full] = _same_shape(tensor, shapes[full])
        else:
            found.unknown.append(name)
    return found


def _has_prefixes(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(tuple(PARTS)) for name in tensors)


def _ours(
    name: str, part: str | None, names: tuple[str, ...], shapes: Mapping[str, torch.Size], architecture: Architecture
) -> tuple[str, str] | None:
    """Return the part and our name of a tensor, or None for one that the model does not have."""
    bare = name
    for prefix, prefixed in PARTS.items():
        if name.startswith(prefix) and part in (None, prefixed):
            if name in shapes:
                return prefixed, name
            part, bare = prefixed, name.removeprefix(prefix)
            break
    ours = _table(part, names, architecture).get(bare) if part else None
    return (part, ours) if part and ours else None


@cache
def _table(part: str, names: tuple[str, ...], architecture: Architecture) -> dict[str, str]:
    """Return our name for each name that a weight of the part has in one of the layouts, prefix removed."""
    table: dict[str, str] = {}
    for name in names:
        if name.startswith(PREFIX_OF[part]):
            bare = name.removeprefix(PREFIX_OF[part])
            theirs = diffusers_name(bare, part, architecture)
            older = [theirs.replace(f".{new}.", f".{old}.") for new, old in OLD_VAE.items()] if part == "vae" else []
            for alias in (bare, theirs, bare.removeprefix("text_model."), *older):
                table[alias] = name
    return table


def _same_shape(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Give a linear layer's weight the shape of a 1x1 convolution, and the reverse."""
    longer, shorter = sorted((tuple(tensor.shape), tuple(shape)), key=len, reverse=True)
    return tensor.reshape(shape) if len(longer) == 4 and longer == (*shorter, 1, 1) else tensor
