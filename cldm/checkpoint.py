"""The choice of weights, and loading of the model and the tokenizer."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from cldm.model import ControlLDM
from files import digest, file_digest
from ldm.config import MODELS, load_architecture
from ldm.diffusers_layout import diffusers_files, read_diffusers
from ldm.diffusion import schedule_buffers
from ldm.tokenizer import CLIP_ON_THE_HUB, Tokenizer, TokenizerError, load_tokenizer
from ldm.weights import CheckpointError, load_strict, randomize, read_tensors

log = logging.getLogger(__name__)

VARIABLE = "CANNY2IMAGE_CHECKPOINT"
USUAL_PLACES = (
    MODELS / "control_sd15_canny.pth",
    Path("/home/player/ControlNet/models/control_sd15_canny.pth"),  # the contest's container
)
SMALL_MODEL = MODELS / "small" / "model.safetensors"
SMALL_TOKENIZER = MODELS / "small" / "tokenizer"


@dataclass(frozen=True)
class Checkpoint:
    """The chosen weights, not loaded yet.

    name: a file, `SD15_FOLDER:CONTROLNET_FOLDER` in the layout of the diffusers library, or `random:SEED`.
    """

    name: str
    architecture: str
    chosen_by: str

    def __str__(self) -> str:
        return f"{self.name} ({self.architecture}, {self.chosen_by})"

    @property
    def random_seed(self) -> int | None:
        match = re.fullmatch(r"random:(\d{1,18})", self.name)
        return int(match[1]) if match else None

    @property
    def diffusers_folders(self) -> tuple[Path, Path] | None:
        """The Stable Diffusion folder and the ControlNet folder, if `name` consists of two paths."""
        parts = self.name.split(os.pathsep)
        return (Path(parts[0]), Path(parts[1])) if len(parts) == 2 and not Path(self.name).exists() else None

    def fingerprint(self) -> str:
        """Return a digest of the files' bytes or the seed, and of the architecture."""
        architecture = repr(load_architecture(self.architecture))
        if self.random_seed is not None:
            return digest(self.name + architecture)
        folders = self.diffusers_folders
        files = diffusers_files(*folders).values() if folders else [self._file()]
        return digest("".join([*map(file_digest, files), architecture]))

    def load_model(self) -> ControlLDM:
        """Load or generate the weights: float32, on the CPU. Raises CheckpointError if they do not fit."""
        architecture = load_architecture(self.architecture)
        if self.random_seed is not None:
            model = ControlLDM(architecture)
            randomize(model, self.random_seed)
            return model.eval().requires_grad_(False)
        with torch.device("meta"):
            model = ControlLDM(architecture)
        if folders := self.diffusers_folders:
            tensors = read_diffusers(model.state_dict(), *folders, architecture)
            tensors |= schedule_buffers(architecture.schedule)
        else:
            tensors = read_tensors(self._file())
        load_strict(model, tensors, f"checkpoint {self.name}")
        return model.eval().requires_grad_(False)

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer that belongs to the weights. Raises TokenizerError if it is missing or does not fit."""
        text = load_architecture(self.architecture).text
        if self.random_seed is not None:  # any tokenizer fits random weights
            return load_tokenizer([SMALL_TOKENIZER], text.positions)
        if self.architecture == "small":
            tokenizer = load_tokenizer([SMALL_TOKENIZER], text.positions)
        else:
            folders = [self.diffusers_folders[0] / "tokenizer"] if self.diffusers_folders else []
            tokenizer = load_tokenizer([*folders, MODELS / "tokenizer"], text.positions, CLIP_ON_THE_HUB)
        if tokenizer.vocabulary != text.vocabulary:
            raise TokenizerError(
                f"the tokenizer has {tokenizer.vocabulary} tokens, but the text encoder of {self.architecture} expects "
                f"{text.vocabulary}: put the vocab.json and merges.txt of this checkpoint into {MODELS / 'tokenizer'}"
            )
        return tokenizer

    def _file(self) -> Path:
        path = Path(self.name)
        if path.is_dir():
            raise CheckpointError(
                f"checkpoint {path} is a folder: give a .pth or .safetensors file, or the two folders of the "
                f"diffusers library as SD15_FOLDER{os.pathsep}CONTROLNET_FOLDER"
            )
        if not path.is_file():
            raise CheckpointError(f"checkpoint {path} does not exist: give the path of a .pth or .safetensors file")
        return path


def find_checkpoint(name: str | os.PathLike[str] | None = None, architecture: str | None = None) -> Checkpoint:
    """Choose the weights and log the choice.

    name: the weights; by default $CANNY2IMAGE_CHECKPOINT if set, else the first existing file in USUAL_PLACES, else
        SMALL_MODEL.
    architecture: the name of a file in models/*.yaml; by default small for random weights and the small model, and
        sd15 for any other checkpoint.
    Raises CheckpointError for a malformed random:SEED.
    """
    if name is not None:
        found = str(name), "given"
    elif os.environ.get(VARIABLE):
        found = os.environ[VARIABLE], f"from ${VARIABLE}"
    else:
        places = [(str(path), "found") for path in USUAL_PLACES if path.is_file()]
        found = [*places, (str(SMALL_MODEL), "no Stable Diffusion checkpoint found")][0]
    is_random = found[0].startswith("random:")
    is_small = is_random or Path(found[0]).resolve() == SMALL_MODEL.resolve()
    checkpoint = Checkpoint(found[0], architecture or ("small" if is_small else "sd15"), found[1])
    if is_random and checkpoint.random_seed is None:
        raise CheckpointError(f"weights {found[0]!r}: expected random:SEED with a whole number, for example random:0")
    log.info("weights: %s", checkpoint)
    return checkpoint
