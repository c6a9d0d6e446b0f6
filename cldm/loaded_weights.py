"""The weights that a runtime's pipelines run with, and their replacement in place under captured graphs."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from cldm.checkpoint import Checkpoint
from cldm.engine_choice import Engines
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.pipeline_cache import Pipelines
from runtime.backends import Precision
from runtime.call_lock import Turns, defaults
from runtime.precision import full_float32
from weights.loras import Loras, Patches, merged


class LoadedWeights:
    """checkpoint: the weights in use. built: the weights that TensorRT's engine files contain."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, device: torch.device) -> None:
        self.checkpoint, self.precision, self.device = checkpoint, precision, device
        self.built = replace(checkpoint, loras=())
        self.patches: Patches = {}  # what is merged into the weights now
        self.stamps: list[tuple[int, int]] = []  # of the files when they were loaded
        self.host: ControlLDM | None = None  # the weights without LoRAs, in host memory

    def load(self, engines: Engines) -> ControlLDM:
        """Load the model onto the device and apply the tricks."""
        self.patches, self.stamps = self.checkpoint.patches(), self.checkpoint.stamps()
        model = make_fast(self.checkpoint.load_model(self.device), self.precision.dtype)
        engines.weights = None if self.checkpoint == self.built else model.state_dict()
        return model

    def replace(self, found: Checkpoint, pipelines: Pipelines, engines: Engines, turns: Turns) -> None:
        """Replace all weights and the tokenizer. Raises before anything has changed: see hackathon.load_weights."""
        with defaults():
            model = replace(found, loras=()).load_model(torch.device("cpu"))
            tokenizer, patches, stamps = found.load_tokenizer(), found.patches(), found.stamps()
        with turns():
            self._refit(found, pipelines, engines)
            pipelines.load(model.state_dict().items())
            self._merge(pipelines, model.state_dict(), patches)
            pipelines.tokenizer, self.checkpoint = tokenizer, found
            self.host, self.stamps = None, stamps

    def set_loras(self, loras: Loras, pipelines: Pipelines, engines: Engines, turns: Turns) -> None:
        """Replace the LoRAs. Raises before anything has changed: see hackathon.set_loras."""
        with turns():
            found = replace(self.checkpoint, loras=loras)
            patches, host = found.patches(), self.host or self._read_again(found)
            self._refit(found, pipelines, engines)
            self._merge(pipelines, host.state_dict(), patches)
            self.checkpoint, self.host = found, host

    def _read_again(self, found: Checkpoint) -> ControlLDM:
        if found.stamps() != self.stamps:
            raise ValueError(
                f"set_loras() merges into {found.name}, whose files have changed since they were loaded: call "
                "load_weights() with it first"
            )
        return replace(found, loras=()).load_model()

    def _refit(self, found: Checkpoint, pipelines: Pipelines, engines: Engines) -> None:
        """Give TensorRT's engines, which contain weights themselves, those of a checkpoint."""
        if engines.backend.name != "tensorrt":
            return
        weights = pipelines.model.state_dict()  # references, not copies
        model = make_fast(found.load_model(torch.device("cpu")), self.precision.dtype)
        engines.refit(str(found), model, weights)
        pipelines.clear()  # whether a graph reads the weights of a refitted engine is not documented
        engines.weights = weights

    def _merge(self, pipelines: Pipelines, base: Mapping[str, Tensor], patches: Patches) -> None:
        """Merge the patches into the weights on the device, and restore those that were patched before."""
        with full_float32():
            pipelines.load(merged(base, patches, {**self.patches, **patches}, self.device))
        self.patches = patches
