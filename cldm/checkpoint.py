"""The choice of weights, and loading of the model and the tokenizer."""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cldm.model import ControlLDM
from cldm.new_model import check_files, model_of, random_model
from cldm.tricks.extra_tokens import add_tokens
from files import digest, file_digest
from ldm.config import MODELS, load_architecture
from ldm.tokenizer import CLIP_ON_THE_HUB, Tokenizer, TokenizerError, load_tokenizer
from ldm.weights import CheckpointError, check_finite
from runtime.precision import full_float32
from weights.embeddings import embedding_file, read_embeddings, rows
from weights.folders import resolve
from weights.loras import Loras, Patches, lora_file, merged, read_loras
from weights.sources import Source, find

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
SMALL_MODEL = MODELS / "small" / "model.safetensors"
SMALL_TOKENIZER = MODELS / "small" / "tokenizer"


@dataclass(frozen=True)
class Checkpoint:
    """The chosen weights, not loaded yet.

    name: BASE, BASE:CONTROL or `random:SEED`; each of the two is a file or a folder (see docs/weights.md).
    vae: a file or folder with another VAE. loras: LoRA files and their strengths, merged in this order.
    embeddings: files of textual-inversion embeddings; their words are extra tokens.
    """

    name: str
    architecture: str
    chosen_by: str
    vae: str | None = None
    loras: Loras = ()
    embeddings: tuple[str, ...] = ()

    def __str__(self) -> str:
        vae = f" with the VAE of {self.vae}" if self.vae else ""
        loras = "".join(f" + {strength:g} x {file}" for file, strength in self.loras)
        return f"{self.name}{vae}{loras} ({self.architecture}, {self.chosen_by})"

    @property
    def random_seed(self) -> int | None:
        match = re.fullmatch(r"random:(\d{1,18})", self.name)
        return int(match[1]) if match else None

    @property
    def sources(self) -> list[Source]:
        """The files or folders of the weights; none for random weights. Raises CheckpointError if one is missing."""
        return [] if self.random_seed is not None else find(self.name)

    @property
    def files(self) -> list[Path]:
        """All files that are read. Raises CheckpointError if one is missing."""
        loras, embeddings = (lora_file(name) for name, _ in self.loras), map(embedding_file, self.embeddings)
        return [*self._weights(), *loras, *embeddings]

    def fingerprint(self) -> str:
        """Return a digest of the files' bytes or the seed, and of the architecture."""
        parts = [file_digest(file) for file in self._weights()] or [self.name, "filled side by side"]
        loras = [f"{file_digest(lora_file(name))} {strength}" for name, strength in self.loras]
        embeddings = [f"{Path(name).name} {file_digest(embedding_file(name))}" for name in self.embeddings]
        return digest("".join([*parts, *loras, *embeddings, repr(load_architecture(self.architecture))]))

    def check(self) -> None:
        """Raise CheckpointError if the files are missing, damaged or do not fit; reads most weights' names only."""
        if self.random_seed is None:
            check_files(self.sources, self._vae(), self.name, load_architecture(self.architecture))

    def checked_tokenizer(self) -> Tokenizer:
        """Check the weights and load the tokenizer. Raises CheckpointError or TokenizerError; one that names both."""
        try:
            self.check()
        except CheckpointError as error:
            raise CheckpointError(f"{error}{self._also_missing()}") from error
        return self.load_tokenizer()

    def _also_missing(self) -> str:
        try:
            self.load_tokenizer()
        except ValueError as error:
            return f"; also, {error}"
        return ""

    def stamps(self) -> list[tuple[object, ...]]:
        """Return path, inode, time of change and size of each file of the weights, to see whether it is still it."""
        stats = [(file.resolve(), file.stat()) for file in self._weights()]
        return [(path, stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in stats]

    def patches(self) -> Patches:
        """Read the LoRA files: what they change, by the names of the weights. Raises CheckpointError."""
        return read_loras(self.loras, load_architecture(self.architecture))

    def load_model(self, device: torch.device = CPU) -> ControlLDM:
        """Load or generate the weights on the device, float32, merge the LoRAs and add the embeddings.

        Nothing refers to the files afterwards. Raises CheckpointError if weights are missing, damaged, do not fit, or
        are NaN or infinite.
        """
        architecture, seed = load_architecture(self.architecture), self.random_seed
        if seed is None:
            model = model_of(self.sources, self._vae(), self.name, architecture, device)
        else:
            model = random_model(architecture, seed).to(device)
        model.eval().requires_grad_(False)
        check_finite(model, f"checkpoint {self.name}")
        if self.embeddings:
            add_tokens(model.text, self._words()[1])
        patches = self.patches()
        with full_float32():
            for name, weight in merged(model.state_dict(), patches, patches, device):
                model.get_parameter(name).data = weight
        return model

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer that belongs to the weights. Raises TokenizerError if it is missing or does not fit."""
        text = load_architecture(self.architecture).text
        if self.random_seed is not None or self.architecture == "small":
            tokenizer = load_tokenizer([SMALL_TOKENIZER], text.positions)
        else:
            folders = [*self._beside(), MODELS / "tokenizer"]
            tokenizer = load_tokenizer(folders, text.positions, CLIP_ON_THE_HUB)
        if self.random_seed is None and tokenizer.vocabulary != text.vocabulary:  # any tokenizer fits random weights
            raise TokenizerError(
                f"the tokenizer has {tokenizer.vocabulary} tokens, but the text encoder of {self.architecture} expects "
                f"{text.vocabulary}: put the vocab.json and merges.txt of this checkpoint into {MODELS / 'tokenizer'}"
            )
        if self.embeddings:
            tokenizer.add(self._words()[0])
        return tokenizer

    def _beside(self) -> list[Path]:
        """Return the folders in or next to the base where its tokenizer may be; none if the base is missing."""
        with suppress(CheckpointError):
            base = self.sources[0].path
            folder = base if base.is_dir() else base.parent
            return [folder / "tokenizer", folder]
        return []

    def _weights(self) -> list[Path]:
        return [file for source in [*self.sources, *filter(None, [self._vae()])] for file in source.files]

    def _words(self) -> tuple[dict[str, list[int]], Tensor]:
        """Return the tokens of the embeddings' words and all their vectors [tokens, width]."""
        text = load_architecture(self.architecture).text
        return rows(read_embeddings(self.embeddings, text.width), text.vocabulary)

    def _vae(self) -> Source | None:
        return Source(resolve(self.vae, "VAE"), "VAE") if self.vae else None
