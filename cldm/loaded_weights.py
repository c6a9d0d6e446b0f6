"""The weights that a runtime's pipelines run with, and their replacement in place under captured graphs.

A replacement first prepares everything that can fail: files are read and checked, LoRAs merged, TensorRT's engines
tried, and the new values converted and laid out as the weights are. What follows only copies.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from cldm.checkpoint import Checkpoint
from cldm.engine_choice import Engines
from cldm.engine_files import Target
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.pipeline_cache import Pipelines
from runtime.backends import Backend, Precision
from runtime.call_lock import Turns, defaults
from runtime.precision import full_float32
from weights.loras import Loras, Patches, merged


class LoadedWeights:
    """checkpoint: the weights in use. built: the weights that TensorRT's engine files contain."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, device: torch.device) -> None:
        self.checkpoint, self.precision, self.device = checkpoint, precision, device
        self.built = replace(checkpoint, loras=())
        self.patches: Patches = {}  # what is merged into the weights now
        self.stamps: list[tuple[object, ...]] = []  # of the files when they were loaded
        self.host: ControlLDM | None = None  # the weights without LoRAs, in host memory
        self.mixed = False  # whether a replacement stopped halfway, so that the weights are a mix of old and new

    def load(self, engines: Engines) -> ControlLDM:
        """Load the model onto the device and apply the tricks."""
        self.patches, self.stamps = self.checkpoint.patches(), self.checkpoint.stamps()
        model = make_fast(self.checkpoint.load_model(self.device), self.precision.dtype, self.precision.fp8)
        engines.weights = None if self.checkpoint == self.built else model.state_dict()
        self.host, self.mixed = None, False
        return model

    def replace(self, found: Checkpoint, current: Callable[[], Pipelines], engines: Engines, turns: Turns) -> None:
        """Replace all weights and the tokenizer. Raises before anything has changed: see hackathon.load_weights.

        current: returns the pipelines; called in the turn, because initialize() may replace them while files are read.
        """
        with defaults():
            base = replace(found, loras=()).load_model().state_dict()
            tokenizer, patches, stamps = found.load_tokenizer(), found.patches(), found.stamps()
        with turns():
            pipelines = current()
            values = {**base, **self._merged(base, patches, {})}
            with self._changing(found, pipelines.laid_out(values), pipelines, engines):
                pipelines.tokenizer, self.host, self.stamps, self.patches = tokenizer, None, stamps, patches

    def set_loras(self, loras: Loras, pipelines: Pipelines, engines: Engines) -> None:
        """Replace the LoRAs, in a turn. Raises before anything has changed: see hackathon.set_loras."""
        found = replace(self.checkpoint, loras=loras)
        patches, host = found.patches(), self.host or self._read_again(found)
        values = self._merged(host.state_dict(), patches, self.patches)
        with self._changing(found, pipelines.laid_out(values), pipelines, engines):
            self.host, self.patches = host, patches

    def _read_again(self, found: Checkpoint) -> ControlLDM:
        if found.stamps() != self.stamps:
            raise ValueError(
                f"set_loras() merges into {found.name}, whose files have changed since they were loaded: call "
                "load_weights() with it first"
            )
        return replace(found, loras=()).load_model()

    def _merged(self, base: Mapping[str, Tensor], patches: Patches, before: Patches) -> dict[str, Tensor]:
        """Return the weights on the device with the patches, and without those of `before`."""
        with full_float32():
            return dict(merged(base, patches, {**before, **patches}, self.device))

    @contextmanager
    def _changing(
        self, found: Checkpoint, values: Mapping[str, Tensor], pipelines: Pipelines, engines: Engines
    ) -> Iterator[None]:
        """Write the values of a checkpoint into the weights; the caller changes its own records in the context."""
        of_engines = self._refitted(found, pipelines, engines)
        self.mixed = True  # remains if the device fails or the user interrupts
        if of_engines is not None:
            engines.found, engines.weights = of_engines, pipelines.model.state_dict()  # references, not copies
            pipelines.clear()  # whether a graph reads the weights of a refitted engine is not documented
        pipelines.load(values)
        yield
        self.checkpoint, self.mixed = found, False

    def _refitted(self, found: Checkpoint, pipelines: Pipelines, engines: Engines) -> dict[Target, Backend] | None:
        """Return backends whose TensorRT engines, which contain weights themselves, take those of the pipelines."""
        if engines.backend.name != "tensorrt":
            return None
        model = make_fast(found.load_model(), self.precision.dtype)
        return engines.refitted(str(found), model, pipelines.model.state_dict())
