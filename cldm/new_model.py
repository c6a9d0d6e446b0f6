"""The model with weights from files or from a seed, without LoRAs and embeddings."""

from collections.abc import Sequence

import torch

from cldm.model import ControlLDM
from ldm.config import Architecture
from ldm.shapes_only import shapes_only
from ldm.weights import load_strict, randomize
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


def model_of(
    sources: Sequence[Source], vae: Source | None, name: str, architecture: Architecture, device: torch.device | None
) -> ControlLDM:
    """Return a model with the weights of files. name: of the checkpoint, for messages.

    device: see `load_strict`; with None, little more than names and shapes is read. Raises CheckpointError.
    """
    model = _without_memory(architecture)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    load_strict(model, join(sources, vae, shapes, architecture), f"checkpoint {name}", device)
    return model


def _without_memory(architecture: Architecture) -> ControlLDM:
    with shapes_only():
        return ControlLDM(architecture)
