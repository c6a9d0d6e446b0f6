"""LoRA (Hu et al. 2021) and LoCon files: low-rank changes of weights, read and merged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldm.config import Architecture
from ldm.weights import CheckpointError
from reading import shown, to_float
from weights.kinds import advice, whole
from weights.lora_names import foreign_kind, layer_names, split_name, weight_shapes
from weights.read import check_dense

LARGEST = torch.finfo(torch.float32).max
LARGEST_RANK = 2**14  # more than any weight has rows or columns


@dataclass(frozen=True)
class Patch:
    """A low-rank change of one weight [o, c] or [o, c, h, w]; r is the rank.

    down: [r, c], or [r, c, h, w] for a convolution; up: [o, r]. With mid [r, r, h, w] (LyCORIS calls it a CP
    decomposition) down is [r, c]. Matrices may also have the shape of a 1x1 convolution, [., ., 1, 1].
    """

    down: Tensor
    up: Tensor
    mid: Tensor | None
    scale: float  # alpha / rank

    def delta(self, shape: Sequence[int], device: torch.device | str) -> Tensor:
        """Return scale * up @ down, or scale * up @ mid @ down, in float32 in the weight's shape.

        On a GPU it is exact to float32 only while TF32 is disabled for matrix products, as it is by default.
        """
        down, up = (factor.to(device, torch.float32).flatten(1) for factor in (self.down, self.up))
        if self.mid is None:
            product = up @ down
        else:
            mid = self.mid.to(device, torch.float32).reshape(*self.mid.shape[:2], -1)
            product = torch.einsum("or,rsk,sc->ock", up, mid, down)
        return self.scale * product.reshape(tuple(shape))

    def bound(self) -> float:
        """Return a bound on the magnitude of delta's elements, from the norms of the factors' rows and columns."""
        down, up = (factor.double().flatten(1) for factor in (self.down, self.up))
        middle = 1.0 if self.mid is None else float(torch.linalg.vector_norm(self.mid.double()))
        rows, columns = up.norm(dim=1).max(), down.norm(dim=0).max()
        return abs(self.scale) * middle * float(rows) * float(columns)


def read_lora(tensors: Mapping[str, Tensor], source: str, architecture: Architecture) -> dict[str, Patch]:
    """Return ControlLDM's name of each changed weight -> its change.

    tensors: a file's content, in the layout of kohya, diffusers or PEFT; source: the file, for messages.
    Without an alpha in `tensors`, alpha is the rank. Raises CheckpointError if any tensor is left over or does not fit.
    """
    shapes = weight_shapes(architecture)
    names = layer_names(shapes, architecture)
    found: dict[str, dict[str, str]] = {}  # weight -> role -> the tensor's name
    left = []
    for name in tensors:
        layer, role = split_name(name) or ("", "")
        if layer not in names:
            left.append(name)
            continue
        roles = found.setdefault(names[layer], {})
        if role in roles:
            raise CheckpointError(f"{source} has both {roles[role]} and {name}: expected one {role} for {names[layer]}")
        roles[role] = name
    for name, tensor in tensors.items():
        check_dense(name, tensor, source)
    _refuse_others(tensors, left, source, architecture.unet.context_width)
    return {weight: _patch(tensors, roles, source, weight, shapes[weight]) for weight, roles in found.items()}


def merge(weight: Tensor, patches: Sequence[tuple[Patch, float]]) -> Tensor:
    """Return the weight plus the sum of strength * delta, added in this order: float32, on the weight's device.

    Raises TypeError or ValueError if a strength is not a finite number.
    """
    merged = weight.detach().to(torch.float32, copy=True)
    for patch, strength in patches:
        merged += check_strength(strength) * patch.delta(weight.shape, weight.device)
    return merged


def check_strength(strength: Any) -> float:
    """Return the strength of a LoRA as a float. Raise TypeError or ValueError if it is not a finite number."""
    number = to_float(strength)
    if number is None:
        raise TypeError(f"strength of a LoRA: got {shown(strength)}, expected a number")
    if not abs(number) <= LARGEST:
        raise ValueError(f"strength of a LoRA: got {shown(strength)}, expected a finite number")
    return number


def _refuse_others(tensors: Mapping[str, Tensor], left: list[str], source: str, context_width: int) -> None:
    if kind := foreign_kind(tensors, context_width):
        what, marks = kind
        raise CheckpointError(
            f"{source} is {what}, not supported, expected LoRA or LoCon for Stable Diffusion 1.5: it shows in "
            f"{len(marks)} of {len(tensors)} tensors, first {', '.join(marks[:3])}"
        )
    if left and (what_else := whole(tensors)) not in (None, "a LoRA"):
        raise CheckpointError(f"{source} is {what_else} and no LoRA: {advice(str(what_else))}")
    if left or not tensors:
        first = f", first {', '.join(left[:3])}" if left else ""
        raise CheckpointError(
            f"{source} is no LoRA for this model: {len(left)} of {len(tensors)} tensors do not belong to one{first}; "
            "give a LoRA or LoCon for Stable Diffusion 1.5"
        )


def _patch(
    tensors: Mapping[str, Tensor], roles: Mapping[str, str], source: str, weight: str, shape: torch.Size
) -> Patch:
    """Join the tensors of one weight; `roles` maps a role to the tensor's name."""
    if not {"down", "up"} <= roles.keys():
        raise CheckpointError(
            f"{source} has {', '.join(roles.values())} without the rest: expected both lora_down and lora_up "
            f"(also called lora_A and lora_B) for {weight}"
        )
    parts = {role: tensors[name] for role, name in roles.items()}
    rank = parts["down"].shape[0] if parts["down"].dim() else 1
    if not 1 <= rank <= LARGEST_RANK:
        raise CheckpointError(f"{source}: {roles['down']} has rank {rank}, expected 1 to {LARGEST_RANK}")
    rows, columns, *kernel = shape
    down_kernel = [] if "mid" in parts else kernel
    expected = {"down": [rank, columns, *down_kernel], "up": [rows, rank], "mid": [rank, rank, *kernel], "alpha": []}
    for role, part in parts.items():
        if _plain(part.shape) != _plain(expected[role]):
            raise CheckpointError(
                f"{source}: {roles[role]} has shape {list(part.shape)}, expected {expected[role]} for {weight}, "
                f"whose shape is {list(shape)}"
            )
    for name in roles.values():
        _check_values(tensors[name], name, source)
    scale = float(parts["alpha"]) / rank if "alpha" in parts else 1.0
    return Patch(parts["down"], parts["up"], parts.get("mid"), scale)


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape without a 1x1 kernel, and a number's shape as ()."""
    return () if list(shape) == [1] else tuple(shape[:2]) if list(shape[2:]) == [1, 1] else tuple(shape)


def _check_values(tensor: Tensor, name: str, source: str) -> None:
    if tensor.is_complex() or not (tensor.is_floating_point() or name.endswith(".alpha")):
        raise CheckpointError(f"{source}: {name} has dtype {tensor.dtype}, expected floating point")
    if not tensor.float().isfinite().all():
        raise CheckpointError(f"{source}: {name} has NaN or infinite values: fetch the file again, or choose another")
