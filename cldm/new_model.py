"""The model with weights from files or from a seed, without LoRAs and embeddings."""

from collections.abc import Sequence
from functools import cache

import torch

from cldm.model import ControlLDM
from ldm.config import Architecture
from ldm.shapes_only import shapes_only
from ldm.weights import check_shapes, load_strict, randomize
from weights.join import join
from weights.sources import Source


def random_model(architecture: Architecture, seed: int) -> ControlLDM:
    """Return a model with random weights in host memory, float32; the same seed gives the same weights."""
    model = _without_memory(architecture)
    empty = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in model.state_dict().items()}
    model.load_state_dict(empty, assign=True)  # to_empty() would import SymPy
    model.reset_buffers()
    randomize(model, seed)
    return model


def check_files(sources: Sequence[Source], vae: Source | None, name: str, architecture: Architecture) -> None:
    """Raise CheckpointError if the files do not have a model's weights; reads little more than names and shapes.

    name: of the checkpoint, for messages.
    """
    shapes = shapes_of(architecture)
    check_shapes(shapes, join(sources, vae, shapes, architecture), f"checkpoint {name}")


def model_of(
    sources: Sequence[Source], vae: Source | None, name: str, architecture: Architecture, device: torch.device
) -> ControlLDM:
    """Return a model with the weights of files on the device. Raises CheckpointError. name: as for `check_files`."""
    model = _without_memory(architecture)
    load_strict(model, join(sources, vae, shapes_of(architecture), architecture), f"checkpoint {name}", device)
    return model


@cache
def shapes_of(architecture: Architecture) -> dict[str, torch.Size]:
    """Return the shapes of a model's weights by name."""
    return {name: tensor.shape for name, tensor in _without_memory(architecture).state_dict().items()}


def _without_memory(architecture: Architecture) -> ControlLDM:
    with shapes_only():
        return ControlLDM(architecture)
