"""Which backend a machine runs, and its engines for pictures of each size: found in files, read once."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from cldm.checkpoint import Checkpoint
from cldm.engine_files import Target, find_engines
from cldm.model import ControlLDM
from cldm.tensorrt_engines import refitted
from runtime.artifacts import EngineFileError
from runtime.backends import BACKENDS, Backend, Precision
from runtime.tensorrt_calls import TensorRTError

# Log str(error), not the exception: its traceback keeps the pipeline alive.
log = logging.getLogger(__name__)


class Engines:
    """checkpoint: that TensorRT's files are built from. strict: raise where otherwise a warning says what is used."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, device: torch.device, strict: bool) -> None:
        self.checkpoint, self.precision, self.device, self.strict = checkpoint, precision, device, strict
        self.backend = BACKENDS["eager"]  # until one is chosen
        self.found: dict[Target, Backend] = {}
        self.weights: Mapping[str, Tensor] | None = None  # that TensorRT's engines get in place of the checkpoint's

    def choose(self, names: tuple[str, ...]) -> None:
        """Choose the first of the backends that has engine files for the contest's pictures; eager if none has.

        Raises EngineFileError or TensorRTError if there is one name and nothing for it.
        """
        size = self._size(256, 384, samples=1)
        self.backend = self._find(size, names, needed=len(names) == 1)
        self.found = {size: self.backend}
        log.info("backend: %s on %s", self.backend.name, self.device)

    def without_tensorrt(self, names: tuple[str, ...], error: TensorRTError) -> tuple[str, ...]:
        """The names to choose from after TensorRT has refused an engine. Raises the error if it is to be one."""
        if len(names) == 1 or self.strict:
            raise error
        log.warning("backend tensorrt unavailable (%s); trying the next one", str(error))
        return tuple(name for name in names if name != "tensorrt")

    def for_size(self, height: int, width: int, samples: int) -> Backend:
        """The chosen backend, and no other, whose form the model has; eager where it has no files for this size."""
        size = self._size(height, width, samples)
        if size not in self.found:
            self.found[size] = self._find(size, (self.backend.name,))
        return self.found[size]

    def refit(self, name: str, model: ControlLDM, weights: Mapping[str, Tensor]) -> None:
        """Let TensorRT's engines have `weights`, which will be those of `model`. Raises ValueError if they cannot.

        name: of the checkpoint that the weights come from. Nothing has changed where it raises.
        """
        try:
            self.found = {
                of: refitted(backend, (of.height, of.width, of.samples), model, weights)
                if backend.name == "tensorrt"
                else backend
                for of, backend in self.found.items()
            }
        except TensorRTError as error:
            raise ValueError(
                f"load_weights() got {name}, and TensorRT's engines hold the weights of {self.checkpoint.name}: "
                f"{error}; or make another hackathon with that checkpoint, or use backend inductor"
            ) from error

    def _find(self, size: Target, names: tuple[str, ...], needed: bool = False) -> Backend:
        """The first of the backends that has engine files for pictures of this size; eager where none has them."""
        for name in names:
            target = replace(size, backend=name)
            try:
                return self._read(target)
            except (EngineFileError, TensorRTError) as error:
                if needed or (self.strict and (target.folder.is_dir() or len(names) == 1)):
                    raise
                which = f"{size.height}x{size.width}, batch {size.samples}"
                log.warning("backend %s unavailable for %s (%s); trying the next one", name, which, str(error))
        return BACKENDS["eager"]

    def _read(self, target: Target) -> Backend:
        if target.backend != "tensorrt":
            return find_engines(target, self.device)
        # The checkpoint is read for its fingerprint only where there are engines to compare it with.
        exists = target.folder.is_dir()
        target = target.of(self.checkpoint) if exists else replace(target, checkpoint=self.checkpoint.name)
        return find_engines(target, self.device, self.weights)

    def _size(self, height: int, width: int, samples: int) -> Target:
        return Target(self.checkpoint.architecture, height, width, samples, self.precision.name)
