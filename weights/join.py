"""One complete set of weights from a base, a ControlNet and, if given, another VAE."""

import logging
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ldm.config import Architecture
from ldm.weights import CheckpointError
from weights.folders import BASE_PARTS, check_scaling
from weights.kinds import BASE, CONTROL, NAMES, advice, foreign
from weights.names import PREFIX_OF, Parts
from weights.schedule import schedule
from weights.sources import Source

log = logging.getLogger(__name__)

Shapes = Mapping[str, torch.Size]
BOTH = f"BASE{os.pathsep}CONTROL"


def join(
    sources: Sequence[Source], vae: Source | None, shapes: Shapes, architecture: Architecture
) -> dict[str, Tensor]:
    """Return the tensors of `ControlLDM` under its names, in the precision of the files.

    sources: the base, which may hold a ControlNet, and a ControlNet to use instead. shapes: of all the model's tensors.
    Raises CheckpointError in one sentence: a part is missing, or a file is of another kind or holds unknown tensors.
    """
    base, *control = (_read(source, shapes, architecture) for source in sources)
    if vae:  # a base without one is complete, too
        base.tensors["vae"] = _vae(vae, shapes, architecture)
    _require_base(base, sources[0])
    tensors = {name: tensor for part in BASE_PARTS for name, tensor in base.tensors[part].items()}
    tensors |= _control(control[0], base, sources[1]) if control else _own_control(base, sources[0])
    tensors |= schedule(architecture.schedule, base.schedule, f"checkpoint {sources[0].path}")
    return tensors | {name: _positions(shape) for name, shape in shapes.items() if name.endswith("position_ids")}


def _read(source: Source, shapes: Shapes, architecture: Architecture) -> Parts:
    """Read a source. Raises CheckpointError, stating what it is, if it holds anything but parts of a model."""
    parts = source.parts(shapes, architecture)
    count = sum(map(len, parts.tensors.values()))
    if (parts.unknown or not count or parts.fitting(shapes) < count) and (kind := foreign(parts.raw)):
        raise CheckpointError(f"checkpoint {source.path} is {kind}: {advice(kind)}")
    if parts.unknown:
        raise CheckpointError(
            f"checkpoint {source.path} holds {len(parts.unknown)} tensors that the model does not have, "
            f"first {', '.join(parts.unknown[:5])}: choose a checkpoint and an architecture that match"
        )
    for part in (*parts.tensors.values(), parts.schedule):
        for name, tensor in part.items():
            if not tensor.is_floating_point():
                raise CheckpointError(
                    f"checkpoint {source.path}: {name} is a {tensor.dtype} tensor, expected dense floating-point "
                    "weights: give a checkpoint that is not quantized"
                )
    if parts.dropped:
        log.info("%s: ignored %d unused tensors, such as %s", source.path, len(parts.dropped), parts.dropped[0])
    return parts


def _require_base(base: Parts, source: Source) -> None:
    missing = [part for part in BASE_PARTS if part not in base.tensors]
    if missing and len(base.tensors) == 1:
        kind = NAMES[next(iter(base.tensors))]
        raise CheckpointError(f"checkpoint {source.path} is {kind} alone: {advice(kind)}")
    if missing:
        raise CheckpointError(
            f"checkpoint {source.path} has no {' and no '.join(missing)}: give a complete Stable Diffusion 1.5 "
            f"checkpoint or pipeline folder, with a ControlNet as {BOTH}"
        )


def _own_control(base: Parts, source: Source) -> dict[str, Tensor]:
    if "controlnet" not in base.tensors:
        raise CheckpointError(
            f"checkpoint {source.path} holds Stable Diffusion without a ControlNet: give both as {BOTH}, for example "
            "with control_v11p_sd15_canny.pth"
        )
    if base.difference:
        raise CheckpointError(f"checkpoint {source.path} is a ControlNet difference: give it with its base as {BOTH}")
    return base.tensors["controlnet"]


def _control(parts: Parts, base: Parts, source: Source) -> dict[str, Tensor]:
    """Return the ControlNet's tensors; those of a difference file are added to the base's encoder, in float32."""
    if "controlnet" not in parts.tensors:
        raise CheckpointError(f"checkpoint {source.path} holds {_held(parts)} and no ControlNet: expected {BOTH}")
    control = parts.tensors["controlnet"]
    if ignored := [part for part in BASE_PARTS if part in parts.tensors]:
        log.info("%s: using its ControlNet, ignoring its %s", source.path, ", ".join(ignored))
    if not parts.difference:
        return control
    unet = base.tensors["unet"]
    twins = {name: name.replace(CONTROL, BASE, 1) for name in control}
    return {
        name: unet[twins[name]].float() + tensor.float() if twins[name] in unet else tensor
        for name, tensor in control.items()
    }


def _vae(source: Source, shapes: Shapes, architecture: Architecture) -> dict[str, Tensor]:
    source = Source(source.folders.get("vae", source.path))
    check_scaling(source.path, architecture.vae.scale_factor)
    parts = _read(source, shapes, architecture)
    if "vae" not in parts.tensors:
        raise CheckpointError(f"vae {source.path} holds {_held(parts)}: expected a VAE of Stable Diffusion 1.5")
    vae = parts.tensors["vae"]
    if missing := [name for name in shapes if name.startswith(PREFIX_OF["vae"]) and name not in vae]:
        raise CheckpointError(
            f"vae {source.path} lacks {len(missing)} tensors, first {missing[0]}: give a complete VAE"
        )
    return vae


def _held(parts: Parts) -> str:
    return " and ".join(NAMES[part] for part in parts.tensors) or "no weights"


def _positions(shape: torch.Size) -> Tensor:
    return torch.arange(shape[-1]).expand(shape)
