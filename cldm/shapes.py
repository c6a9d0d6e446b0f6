"""The architecture that given tensors fit."""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from cldm.model import ControlLDM
from ldm.config import MODELS, load_architecture
from ldm.shapes_only import shapes_only
from weights.names import sort_tensors


def fitting_architecture(tensors: Sequence[tuple[str | None, Mapping[str, Tensor]]]) -> str:
    """Return the architecture that has the most of these tensors in the same shape; sd15 if none has any.

    tensors: by part, as `weights.sources.Source.read` returns them.
    """
    names = sorted((path.stem for path in MODELS.glob("*.yaml")), key=lambda name: name != "sd15")
    return max(names, key=lambda name: _count_fitting(tensors, name))


def _count_fitting(tensors: Sequence[tuple[str | None, Mapping[str, Tensor]]], architecture: str) -> int:
    shapes, config = _shapes(architecture), load_architecture(architecture)
    return sum(sort_tensors(some, shapes, config, part).fitting(shapes) for part, some in tensors)


@cache
def _shapes(architecture: str) -> dict[str, torch.Size]:
    """Return the shape of each tensor of `ControlLDM` by name."""
    with shapes_only():
        model = ControlLDM(load_architecture(architecture))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
