"""Reads architectures from `models/*.yaml` into frozen dataclasses."""

import dataclasses
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from reading import read_small, shown

MODELS = Path(__file__).resolve().parent.parent / "models"
LEVELS = 4  # of the VAE and the hint, which scale by 1, 1/2, 1/4, 1/8; of the UNet, whose latents have sides of 8 n
TRAINING_STEPS = 1000
WIDEST = 1 << 16  # channels, tokens and all other counts: larger ones cannot be allocated
DEEPEST = 64  # blocks per level, layers


@dataclass(frozen=True)
class UNetConfig:
    """The denoising network. ControlNet's encoder has the same configuration."""

    in_channels: int  # channels of the latent
    model_channels: int  # width of the first level
    channel_mult: tuple[int, ...]  # width of each level, as a multiple of model_channels
    res_blocks: int  # per level; the decoder has one more
    attention_levels: tuple[int, ...]  # levels with transformers
    heads: int
    context_width: int  # width of the text encoder's output
    groups: int  # number of groups in every GroupNorm


@dataclass(frozen=True)
class ControlConfig:
    """The convolutions that compute ControlNet's hint from the edges."""

    hint_channels: tuple[int, ...]  # width at each scale: 1, 1/2, 1/4, 1/8


@dataclass(frozen=True)
class VAEConfig:
    """The autoencoder between pictures and latents."""

    channels: int
    channel_mult: tuple[int, ...]
    res_blocks: int  # per level; the decoder has one more
    latent_channels: int
    groups: int
    scale_factor: float  # the diffusion works on scale_factor * latent


@dataclass(frozen=True)
class TextConfig:
    """The CLIP text encoder."""

    vocabulary: int
    positions: int  # tokens per prompt
    width: int
    layers: int
    heads: int
    mlp_width: int


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule: the square roots of the betas rise linearly."""

    steps: int
    beta_start: float
    beta_end: float


@dataclass(frozen=True)
class Architecture:
    """Everything that determines the shapes of a checkpoint's tensors, and its noise schedule."""

    unet: UNetConfig
    control: ControlConfig
    vae: VAEConfig
    text: TextConfig
    schedule: ScheduleConfig


Config = TypeVar("Config")


def load_architecture(name: str) -> Architecture:
    """Read `models/<name>.yaml`.

    Raises TypeError for a name that is no string, and ValueError for an unknown name, for invalid YAML, for an unknown,
    missing or mistyped field, and for sizes that no network can have.
    """
    if not isinstance(name, str):
        raise TypeError(f"architecture: got {shown(name)}, expected the name of a file in models/*.yaml")
    files = {path.stem: path for path in sorted(MODELS.glob("*.yaml"))}
    if name not in files:
        raise ValueError(
            f"unknown architecture {shown(name)}: expected one of {', '.join(files)} (the files models/*.yaml)"
        )
    path = files[name]
    try:
        values = yaml.load(read_small(path), _Loader)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): restore the file") from error
    except Exception as error:  # the library raises many kinds of exceptions for values that it cannot convert
        where = " ".join(str(error).split()) if isinstance(error, (yaml.YAMLError, ValueError)) else repr(error)
        raise ValueError(f"{path.name} is not valid YAML ({where}): restore the file") from error
    architecture = _parse(Architecture, values, path.name)
    for problem in _problems(architecture):
        raise ValueError(f"{path.name}: {problem}")
    return architecture


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice; YAML's own loader takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {shown(key.value)} is given twice")
            seen.append(key.value)
        return super().construct_mapping(node, deep)


def _problems(architecture: Architecture) -> Iterator[str]:
    """Yield what is impossible about the sizes."""
    unet, vae, text = architecture.unet, architecture.vae, architecture.text
    widths = [unet.model_channels * mult for mult in (1, *unet.channel_mult)]
    vae_widths = [vae.channels * mult for mult in (1, *vae.channel_mult)]
    if not 1 <= len(unet.channel_mult) <= LEVELS:
        yield f"unet: channel_mult: got {len(unet.channel_mult)} levels, expected 1 to {LEVELS}"
    scaled = {"vae: channel_mult": vae.channel_mult, "control: hint_channels": architecture.control.hint_channels}
    for name, values in scaled.items():
        if len(values) != LEVELS:
            yield f"{name}: got {len(values)} levels, expected {LEVELS}"
    for name, some, groups in (("unet", widths, unet.groups), ("vae", vae_widths, vae.groups)):
        if max(some) > WIDEST:
            yield f"{name}: got {max(some)} channels, expected at most {WIDEST}"
        if any(width % groups for width in some):
            yield f"{name}: groups: got {groups}, expected a divisor of the widths {some}"
    levels = range(len(unet.channel_mult))
    if not set(unet.attention_levels) <= {*levels}:
        yield f"unet: attention_levels: got {shown(unet.attention_levels)}, expected some of {[*levels]}"
    if any(widths[level + 1] % unet.heads for level in (*unet.attention_levels, -2) if level + 1 < len(widths)):
        yield f"unet: heads: got {unet.heads}, expected a divisor of the widths {widths[1:]}"
    if unet.model_channels % 2:
        yield f"unet: model_channels: got {unet.model_channels}, expected an even number"
    if text.width % text.heads:
        yield f"text: heads: got {text.heads}, expected a divisor of the width {text.width}"
    if unet.context_width != text.width:
        yield f"unet: context_width: got {unet.context_width}, expected the text's width {text.width}"
    if unet.in_channels != vae.latent_channels:
        yield f"unet: in_channels: got {unet.in_channels}, expected the VAE's latent_channels {vae.latent_channels}"
    if not 0 < vae.scale_factor < math.inf:
        yield f"vae: scale_factor: got {vae.scale_factor}, expected a finite number above 0"
    schedule = architecture.schedule
    if schedule.steps != TRAINING_STEPS or not 0 < schedule.beta_start < schedule.beta_end < 1:
        yield (
            f"schedule: got {schedule.steps} steps from {schedule.beta_start} to {schedule.beta_end}, expected "
            f"{TRAINING_STEPS} steps and 0 < beta_start < beta_end < 1"
        )


def _parse(kind: type[Config], values: Any, where: str) -> Config:
    """Build the dataclass `kind` from a mapping with exactly its fields. where: the prefix of error messages."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {shown(values)}, expected a mapping with the fields of {kind.__name__}")
    types = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := [name for name in values if name not in names]:
        raise ValueError(f"{where}: unknown field {shown(unknown[0])}, expected {', '.join(names)}")
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"{where}: missing field {missing[0]!r} of {kind.__name__}")
    return kind(**{name: _value(types[name], values[name], f"{where}: {name}") for name in names})


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _parse(kind, value, where)  # type: ignore[arg-type]
    if kind == tuple[int, ...]:
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise ValueError(f"{where}: got {shown(value)}, expected a list of integers")
        least = 0 if where.endswith("attention_levels") else 1
        return tuple(_bounded(item, where, least, DEEPEST if where.endswith("mult") else WIDEST) for item in value)
    if type(value) is not kind:
        raise ValueError(f"{where}: got {shown(value)}, expected {kind.__name__}")
    if kind is int:
        return _bounded(value, where, 1, DEEPEST if where.endswith(("res_blocks", "layers")) else WIDEST)
    return value


def _bounded(value: int, where: str, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError(f"{where}: got {shown(value)}, expected {least} to {most}")
    return value
