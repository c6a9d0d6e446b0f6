"""Caches the kernels that TensorRT for RTX compiles on this machine, in a file next to the engine files.

The library compiles an engine's kernels at the first run, or loads them from a runtime cache that the same version of
the library created for the same GPU and driver. Losing the cache costs only a few seconds of compilation, so
problems with its file are logged, not raised. Not executed on an RTX GPU yet; tests/standin covers the calls.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from files import write_whole
from reading import read_regular
from runtime.tensorrt_calls import checked

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)


class KernelCache:
    """One runtime cache for all engines in a folder. It lives at least as long as their contexts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cache: Any = None  # an IRuntimeCache, created with the first engine
        self.logger: Any = None
        self.kept = b""  # what was last read from the file or written to it

    def configuration(self, engine: "trt.ICudaEngine", strategy: object, logger: Any) -> Any:
        """Return the configuration for the engine's context, with the file's kernels if they fit this machine.

        Raise TensorRTError if TensorRT cannot create the configuration or the cache.
        """
        self.logger = logger
        config: Any = checked(engine.create_runtime_config(), "TensorRT cannot create a runtime configuration", logger)
        config.set_execution_context_allocation_strategy(strategy)
        if self.cache is None:
            self.cache = checked(config.create_runtime_cache(), "TensorRT cannot create a runtime cache", logger)
            self._read()
        checked(config.set_runtime_cache(self.cache), "TensorRT rejects its runtime cache", logger)
        return config

    def save(self) -> None:
        """Write the kernels compiled so far to the file if they changed. Call it after all engines have run."""
        if self.cache is None:
            return
        data = bytes(self.cache.serialize() or b"")
        if not data:
            log.warning("compiled kernels not saved (%s): the next start compiles them again", self.logger.heard())
        if not data or data == self.kept:
            return
        try:
            write_whole(self.path, data)
        except OSError as error:
            log.warning("compiled kernels not saved (%s): the next start compiles them again", error)
            return
        self.kept = data
        log.info("compiled kernels: saved %.1f MiB in %s", len(data) / 2**20, self.path)

    def _read(self) -> None:
        try:
            data = read_regular(self.path)
        except FileNotFoundError:
            log.info("compiled kernels: none in %s yet; compiling them now", self.path)
            return
        except OSError as error:
            log.warning("compiled kernels: %s cannot be read (%s); compiling them now", self.path, error)
            return
        if self.cache.deserialize(data):
            self.kept = data
        else:
            log.info(
                "compiled kernels: %s is damaged or from another machine or version and will be replaced (%s)",
                self.path,
                self.logger.heard(),
            )
