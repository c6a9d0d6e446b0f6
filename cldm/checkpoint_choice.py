"""The choice of a checkpoint: given, from the environment, found in the usual places, or the small model."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cldm.checkpoint import SMALL_MODEL, Checkpoint
from cldm.shapes import fitting_architecture
from ldm.config import MODELS, load_architecture
from ldm.weights import CheckpointError
from reading import path_text, shown
from weights.folders import existing
from weights.loras import check_loras
from weights.sources import existing_parts

log = logging.getLogger(__name__)

RANDOM = "random:"
VARIABLE = "CANNY2IMAGE_CHECKPOINT"
USUAL_PLACES = (
    MODELS / "control_sd15_canny.pth",
    Path("/home/player/ControlNet/models/control_sd15_canny.pth"),  # the contest's container
)


def find_checkpoint(
    name: str | os.PathLike[str] | None = None,
    architecture: str | None = None,
    vae: str | os.PathLike[str] | None = None,
    loras: Sequence[tuple[str | os.PathLike[str], float]] = (),
    embeddings: Sequence[str | os.PathLike[str]] = (),
) -> Checkpoint:
    """Choose the weights and log the choice.

    name: the weights; by default $CANNY2IMAGE_CHECKPOINT if set, else the first existing file in USUAL_PLACES, else
        SMALL_MODEL.
    architecture: the name of a file in models/*.yaml; by default small for random weights and for weights of the small
        model's shapes, and sd15 for any others.
    vae, loras, embeddings: see Checkpoint.
    Raises CheckpointError for a malformed random:SEED or BASE:CONTROL, TypeError or ValueError for an argument of
    another kind.
    """
    if isinstance(embeddings, str) or not isinstance(embeddings, Sequence):
        raise TypeError(f"embeddings: got {shown(embeddings)}, expected a list of files, [] for none")
    words = tuple(existing(path_text("embeddings", one)) for one in embeddings)
    other_vae = None if vae is None else existing(path_text("vae", vae))
    text, chosen_by = _choose(name)
    if not text.startswith(RANDOM):
        text = existing_parts(text)
    checkpoint = Checkpoint(text, "", chosen_by, other_vae, check_loras(loras), words)
    checkpoint = replace(checkpoint, architecture=_architecture(checkpoint, architecture))
    log.info("weights: %s", checkpoint)
    return checkpoint


def _choose(name: str | os.PathLike[str] | None) -> tuple[str, str]:
    """Return the name of the weights and how it was chosen. Raises like `find_checkpoint`."""
    given = os.environ.get(VARIABLE)
    if name is not None:
        found = path_text("checkpoint", name), "given"
    elif given:
        found = path_text(f"${VARIABLE}", given), f"from ${VARIABLE}"
    else:
        if given is not None:
            log.warning("$%s is empty: choosing the weights as if it were not set", VARIABLE)
        places = [(str(path), "found") for path in USUAL_PLACES if path.is_file()]
        found = [*places, (str(SMALL_MODEL), "no Stable Diffusion checkpoint found")][0]
    if found[0].startswith(RANDOM) and Checkpoint(found[0], "small", "").random_seed is None:
        raise CheckpointError(f"weights {shown(found[0])}: expected random:SEED with a whole number, such as random:0")
    return found


def _architecture(checkpoint: Checkpoint, given: str | None) -> str:
    """Return the given architecture, or the one that the base's tensors fit: small for random weights, else sd15."""
    if given is not None:
        load_architecture(given)  # raises for an unknown name
        return given
    if checkpoint.random_seed is not None:
        return "small"
    try:
        return fitting_architecture(checkpoint.sources[0].read())
    except CheckpointError:  # raised again, with the reason, when the weights are loaded
        return "sd15"
