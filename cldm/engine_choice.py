"""Chooses a backend, and reads its engine files once per picture size."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from cldm.arguments import OUTPUT_PIXELS
from cldm.batch_sizes import BATCHES
from cldm.checkpoint import Checkpoint
from cldm.engine_files import Target, check_code, find_engines
from cldm.model import ControlLDM
from cldm.prompt_syntax import PLAIN, PromptSyntax
from cldm.tensorrt_engines import refitted
from runtime.artifacts import EngineFileError
from runtime.backends import BACKENDS, Backend, Precision
from runtime.tensorrt_calls import TensorRTError

# Log str(error), not the exception: its traceback keeps the pipeline alive.
log = logging.getLogger(__name__)


class Engines:
    """Chooses a backend, then returns it for each picture size, or eager for sizes without its engine files.

    checkpoint: the weights that TensorRT's engine files hold. strict: raise instead of warning and falling back.
    syntax: of the prompts.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        device: torch.device,
        strict: bool,
        syntax: PromptSyntax = PLAIN,
    ) -> None:
        self.checkpoint, self.precision, self.device, self.strict = checkpoint, precision, device, strict
        self.syntax = syntax
        self.backend = BACKENDS["eager"]  # until `choose`
        self.found: dict[Target, Backend] = {}
        self.begun: dict[Target, Future[Backend]] = {}  # see `begin`
        self.weights: Mapping[str, Tensor] | None = None  # TensorRT's engines use these; None: the checkpoint's

    def begin(self, names: tuple[str, ...]) -> None:
        """Start to load the compiled code that `choose` will need, in another thread; `choose` then waits for it.

        The code keeps Python busy, while weights mostly wait for files, memory and the device.
        """
        targets = [replace(self.contest, backend=name) for name in names]
        first = next((target for target in targets if target.folder.is_dir()), None)
        if first and first.backend == "inductor":
            thread = ThreadPoolExecutor(1)
            self.begun = {first: thread.submit(find_engines, first, self.device)}
            thread.shutdown(wait=False)

    def choose(self, names: tuple[str, ...]) -> None:
        """Choose the first backend in `names` that is usable for the contest's picture size, or else eager.

        Raises EngineFileError or TensorRTError if `names` is a single name that cannot be used, or, with strict, if
        a backend's engine files exist but cannot be used.
        """
        self.backend = self._find(self.contest, names, needed=len(names) == 1)
        self.found = {self.contest: self.backend}
        log.info("backend: %s on %s", self.backend.name, self.device)

    def without_tensorrt(self, names: tuple[str, ...], error: TensorRTError) -> tuple[str, ...]:
        """Return `names` without tensorrt, after it failed. Raises `error` if no name is left, or with strict."""
        if len(names) == 1 or self.strict:
            raise error
        log.warning("backend tensorrt unavailable (%s); falling back to the next backend", str(error))
        return tuple(name for name in names if name != "tensorrt")

    def for_size(self, height: int, width: int, samples: int) -> Backend:
        """Return the chosen backend, or eager if its engine files for this size are missing or unusable.

        Other backends are not tried, because the model has been converted for the chosen one.
        With strict, raises EngineFileError or TensorRTError instead of returning eager.
        """
        size = self._size(height, width, samples)
        if size not in self.found:
            self.found[size] = self._find(size, (self.backend.name,))
        return self.found[size]

    def batch_sizes(self, height: int, width: int) -> list[int]:
        """Return the sizes of batches to use: those of BATCHES with engine files, or all of them if there are none."""
        sizes = [n for n in BATCHES if n == 1 or n * height * width <= OUTPUT_PIXELS]
        targets = [replace(self._size(height, width, n), backend=self.backend.name) for n in sizes]
        return [target.samples for target in targets if target.folder.is_dir()] or sizes

    def refitted(self, name: str, model: ControlLDM, weights: Mapping[str, Tensor]) -> dict[Target, Backend]:
        """Return `found` with `weights` in TensorRT's engines, into which the caller then copies the values of `model`.

        name: the checkpoint of `model`. Raises ValueError if TensorRT cannot refit.
        """
        try:
            return {
                of: refitted(backend, of.size, model, weights) if backend.name == "tensorrt" else backend
                for of, backend in self.found.items()
            }
        except TensorRTError as error:
            raise ValueError(
                f"got weights {name}, but TensorRT's engines contain the weights of {self.checkpoint.name}: "
                f"{error}; or create a new hackathon with that checkpoint, or use backend inductor"
            ) from error

    @property
    def contest(self) -> Target:
        """The contest's picture size."""
        return self._size(256, 384, samples=1)

    def _find(self, size: Target, names: tuple[str, ...], needed: bool = False) -> Backend:
        """Return the first backend in `names` that is usable for pictures of this size, or else eager.

        needed: raise EngineFileError or TensorRTError instead of falling back.
        """
        for name in names:
            target = replace(size, backend=name)
            try:
                return self._read(target)
            except (EngineFileError, TensorRTError) as error:
                if needed or (self.strict and (target.folder.is_dir() or len(names) == 1)):
                    raise
                which = f"{size.height}x{size.width}, batch {size.samples}"
                log.warning(
                    "backend %s unavailable for %s (%s); falling back to the next backend, or to eager if none is left",
                    name,
                    which,
                    str(error),
                )
        return BACKENDS["eager"]

    def _read(self, target: Target) -> Backend:
        if begun := self.begun.pop(target, None):
            return begun.result()
        if target.backend != "tensorrt":
            return find_engines(target, self.device)
        # Computing the fingerprint reads the whole checkpoint: do it only if there are engine files to compare.
        exists = target.folder.is_dir()
        target = target.of(self.checkpoint) if exists else replace(target, checkpoint=self.checkpoint.name)
        return find_engines(target, self.device, self.weights)

    def _size(self, height: int, width: int, samples: int) -> Target:
        return Target(self.checkpoint.architecture, height, width, samples, self.precision.name, syntax=self.syntax)


def check_backend(
    name: str, checkpoint: Checkpoint, precision: Precision, device: torch.device, syntax: PromptSyntax
) -> None:
    """Raise ValueError if the backend has no engine files for the contest's size, or if they cannot be used here."""
    engines = Engines(checkpoint, precision, device, True, syntax)
    if name == "inductor":
        check_code(replace(engines.contest, backend=name), device)
        return
    try:
        engines.choose((name,))
    except TensorRTError as error:
        raise ValueError(str(error)) from error
