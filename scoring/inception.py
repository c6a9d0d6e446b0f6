"""The FID network with its weights: the real ones where a file is found, seeded ones otherwise.

The real file is `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, known by the sha256 that its name ends in. Only
with it the distance is the contest's PD. All else is called PD*: good for comparing two runs of one machine and for
testing, but on a scale of its own.
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
    """A network on its device, and where its weights came from: `weights` is None for the seeded ones."""

    network: InceptionV3
    weights: Path | None
    real: bool

    @property
    def metric_name(self) -> str:
        """What a distance of these features may be called."""
        return "PD" if self.real else "PD*"

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] RGB on any device -> float32 [n, 2048] on the network's."""
        features: Tensor = self.network(pictures.to(self.network.fc.weight.device))
        return features


def load_inception(weights: Path | None = None, device: torch.device | str = "cpu") -> Inception:
    """Load `weights`, else the real file from `models/` or torch hub's cache, else make seeded weights.

    Raises FileNotFoundError where `weights` names no file, and ValueError for a file that is damaged or does not hold
    this network.
    """
    path = find_weights(weights)
    if path is None:
        _say_where_to_put_the_file()
        return Inception(_network(seeded_weights(), device), None, real=False)
    prefix = file_digest(path)[: len(SHA256_PREFIX)]
    real = prefix == SHA256_PREFIX
    if path.name == FILE_NAME and not real:
        raise ValueError(f"{path}: its sha256 starts with {prefix} and not as its name says; fetch the file again")
    network = _network(read_weights(path), device)
    if not real:
        log.warning("%s: sha256 starts with %s, PD's file with %s; the distance is PD*", path, prefix, SHA256_PREFIX)
    return Inception(network, path, real)


def find_weights(weights: Path | None) -> Path | None:
    """The file to load, or None. Raises FileNotFoundError where `weights` is given and names no file."""
    if weights is not None:
        if not weights.is_file():
            raise FileNotFoundError(f"{weights}: no such file; expected the weights of the FID network, {FILE_NAME}")
        return weights
    places = (MODELS, Path(torch.hub.get_dir()) / "checkpoints")
    return next((place / FILE_NAME for place in places if (place / FILE_NAME).is_file()), None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a file. Raises ValueError unless it holds this network's names and shapes."""
    mend = f"put pytorch-fid's {FILE_NAME} in its place"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint make the unpickler raise nearly anything
        raise ValueError(f"{path}: expected a PyTorch checkpoint, but it cannot be read; {mend}") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected a dict of tensors, got a {type(state).__name__}; {mend}")
    expected, got = _shapes(_empty_network().state_dict()), _shapes(state)
    wrong = sorted((key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key)), key=str)
    if wrong:
        first = f"{wrong[0]} is {got.get(wrong[0], 'missing')} and should be {expected.get(wrong[0], 'absent')}"
        raise ValueError(f"{path}: {len(wrong)} tensors do not fit the FID network's {len(expected)} ({first}); {mend}")
    return dict(state)


def seeded_weights(seed: int = SEED) -> dict[str, Tensor]:
    """He et al.'s variance-preserving weights (arXiv:1502.01852), equal in every run. Features have a mean near 0.1."""
    network = _empty_network().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)  # of its own, so that torch's global one neither acts nor moves
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.normal_(0, math.sqrt(2 / module.weight[0].numel()), generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for parameter in network.fc.parameters():
        parameter.data.zero_()
    return network.state_dict()


def _empty_network() -> InceptionV3:
    with torch.device("meta"):  # no memory, no time, and no draw from torch's global generator
        return InceptionV3()


def _network(state: Mapping[str, Tensor], device: torch.device | str) -> InceptionV3:
    network = _empty_network()
    network.load_state_dict(state, strict=True, assign=True)
    return network.float().to(device).eval().requires_grad_(False)


def _shapes(state: Mapping[str, Any]) -> dict[str, list[int] | str]:
    return {key: list(v.shape) if isinstance(v, Tensor) else f"a {type(v).__name__}" for key, v in state.items()}


@cache
def _say_where_to_put_the_file() -> None:
    log.warning("no %s in %s: seeded weights, and the distance is PD*, not the contest's PD", FILE_NAME, MODELS)
