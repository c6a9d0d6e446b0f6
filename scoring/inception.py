"""Loads the FID network with the real weights if their file is found, else with seeded random weights.

The real file is `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, identified by the start of its sha256, which is
in the file name. The distance is the contest's PD only with this file. With other weights the distance is called PD*:
usable for tests and for comparing runs on one machine, but on a different scale.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from files import file_digest
from scoring.inception_v3 import InceptionV3

SHA256_PREFIX = "6726825d"
FILE_NAME = f"pt_inception-2015-12-05-{SHA256_PREFIX}.pth"
MODELS = Path(__file__).resolve().parents[1] / "models"
SEED = 2023

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inception:
    """A network on its device. weights: their file, None if seeded. real: whether the distance is the contest's PD."""

    network: InceptionV3
    weights: Path | None
    real: bool

    @property
    def metric_name(self) -> str:
        """The name of the distance between features of this network."""
        return "PD" if self.real else "PD*"

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] RGB on any device -> float32 [n, 2048] on the network's device."""
        features: Tensor = self.network(pictures.to(self.network.fc.weight.device))
        return features


def load_inception(weights: Path | None = None, device: torch.device | str = "cpu") -> Inception:
    """Load the file `weights`; if None, load the real file from `models/` or torch hub's cache, or use seeded weights.

    Log a warning if the distance is PD*. Raise FileNotFoundError if `weights` does not exist, and ValueError if a file
    is damaged or contains another network.
    """
    path = find_weights(weights)
    if path is None:
        _say_where_to_put_the_file()
        return Inception(_network(seeded_weights(), device), None, real=False)
    prefix = file_digest(path)[: len(SHA256_PREFIX)]
    real = prefix == SHA256_PREFIX
    if path.name == FILE_NAME and not real:
        raise ValueError(f"{path}: its sha256 starts with {prefix}, but its name differs; download the file again")
    network = _network(read_weights(path), device)
    if not real:
        log.warning("%s: sha256 starts with %s, expected %s for PD; the distance is PD*", path, prefix, SHA256_PREFIX)
    return Inception(network, path, real)


def find_weights(weights: Path | None) -> Path | None:
    """Return the file to load, or None if there is none. Raise FileNotFoundError if `weights` does not exist."""
    if weights is not None:
        if not weights.is_file():
            raise FileNotFoundError(f"{weights} does not exist; expected the weights of the FID network, {FILE_NAME}")
        return weights
    places = (MODELS, Path(torch.hub.get_dir()) / "checkpoints")
    return next((place / FILE_NAME for place in places if (place / FILE_NAME).is_file()), None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file. Raise ValueError unless its names and shapes match the FID network."""
    mend = f"replace it with pytorch-fid's {FILE_NAME}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler may raise almost any exception if the file is not a checkpoint
        raise ValueError(f"{path}: expected a PyTorch checkpoint, but it cannot be read; {mend}") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected a dict of tensors, got a {type(state).__name__}; {mend}")
    expected, got = _shapes(_empty_network().state_dict()), _shapes(state)
    wrong = sorted((key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key)), key=str)
    if wrong:
        first = f"{wrong[0]} is {got.get(wrong[0], 'missing')} and should be {expected.get(wrong[0], 'absent')}"
        raise ValueError(f"{path}: {len(wrong)} tensors do not fit the FID network's {len(expected)} ({first}); {mend}")
    for name, tensor in state.items():
        number = tensor.is_floating_point() or name.endswith("num_batches_tracked")
        if not number or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(
                f"{path}: {name} is a {tensor.dtype} tensor ({_layout(tensor)}), expected dense floating-point "
                f"values; {mend}"
            )
        if not tensor.float().isfinite().all():
            raise ValueError(f"{path}: {name} holds NaN or infinite values; {mend}")
    return dict(state)


def seeded_weights(seed: int = SEED) -> dict[str, Tensor]:
    """Return a state dict of He et al.'s variance-preserving random weights (arXiv:1502.01852).

    The same seed gives the same weights. The network's features then have a mean near 0.1.
    """
    network = _empty_network().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)  # torch's global generator is neither used nor advanced
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.normal_(0, math.sqrt(2 / module.weight[0].numel()), generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for parameter in network.fc.parameters():
        parameter.data.zero_()
    return network.state_dict()


def _empty_network() -> InceptionV3:
    with torch.device("meta"):  # allocates no memory, and does not advance torch's global generator
        return InceptionV3()


def _network(state: Mapping[str, Tensor], device: torch.device | str) -> InceptionV3:
    network = _empty_network()
    network.load_state_dict(state, strict=True, assign=True)
    return network.float().to(device).eval().requires_grad_(False)


def _layout(tensor: Tensor) -> str:
    return "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")


def _shapes(state: Mapping[str, Any]) -> dict[str, list[int] | str]:
    return {key: list(v.shape) if isinstance(v, Tensor) else f"a {type(v).__name__}" for key, v in state.items()}


@cache
def _say_where_to_put_the_file() -> None:
    log.warning("no %s in %s: using seeded weights; the distance is PD*, not the contest's PD", FILE_NAME, MODELS)
