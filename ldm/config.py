"""Reads architectures from `models/*.yaml` into frozen dataclasses."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

MODELS = Path(__file__).resolve().parent.parent / "models"


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

    Raises ValueError for an unknown name, for invalid YAML, and for an unknown, missing or mistyped field.
    """
    path = MODELS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in MODELS.glob("*.yaml")))
        raise ValueError(f"unknown architecture {name!r}: expected one of {known} (the files models/*.yaml)")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ValueError(f"{path.name} is not valid YAML ({where}): restore the file") from error
    return _parse(Architecture, values, path.name)


def _parse(kind: type[Config], values: Any, where: str) -> Config:
    """Build the dataclass `kind` from a mapping with exactly its fields. where: the prefix of error messages."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {values!r}, expected a mapping with the fields of {kind.__name__}")
    types = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(names)):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}, expected {', '.join(names)}")
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"{where}: missing field {missing[0]!r} of {kind.__name__}")
    return kind(**{name: _value(types[name], values[name], f"{where}: {name}") for name in names})


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _parse(kind, value, where)  # type: ignore[arg-type]
    if kind == tuple[int, ...]:
        if isinstance(value, list) and all(type(item) is int for item in value):
            return tuple(value)
        raise ValueError(f"{where}: got {value!r}, expected a list of integers")
    if type(value) is not kind:
        raise ValueError(f"{where}: got {value!r}, expected {kind.__name__}")
    return value
