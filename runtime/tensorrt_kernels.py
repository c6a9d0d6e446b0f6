"""Kernels that TensorRT for RTX compiled on this machine, kept beside the engine files for the next start.

The library compiles an engine's kernels when it first runs, or takes them from a runtime cache that fits: made by the
same version of the library for the same GPU and driver. A cache that is lost costs seconds and nothing else, so that it
is logged and no error. Not executed on an RTX card yet; tests/standin covers the calls.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from files import write_whole
from runtime.tensorrt_calls import checked

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)


class KernelCache:
    """One runtime cache for all engines of a folder. It lives at least as long as their contexts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cache: Any = None  # an IRuntimeCache, made with the first engine
        self.logger: Any = None
        self.kept = b""  # what the file holds

    def configuration(self, engine: "trt.ICudaEngine", strategy: object, logger: Any) -> Any:
        """How the engine's context is to be made, with the kernels of the file if they fit this machine."""
        self.logger = logger
        config: Any = checked(engine.create_runtime_config(), "TensorRT makes no runtime configuration", logger)
        config.set_execution_context_allocation_strategy(strategy)
        if self.cache is None:
            self.cache = checked(config.create_runtime_cache(), "TensorRT makes no runtime cache", logger)
            self._read()
        checked(config.set_runtime_cache(self.cache), "TensorRT refuses its runtime cache", logger)
        return config

    def save(self) -> None:
        """Keep what has been compiled so far. Call it when all engines have run."""
        if self.cache is None:
            return
        data = bytes(self.cache.serialize() or b"")
        if not data:
            log.warning("compiled kernels are not kept (%s): the next start compiles them again", self.logger.heard())
        if not data or data == self.kept:
            return
        try:
            write_whole(self.path, data)
        except OSError as error:
            log.warning("compiled kernels are not kept (%s): the next start compiles them again", error)
            return
        self.kept = data
        log.info("compiled kernels: kept %.1f MiB in %s", len(data) / 2**20, self.path)

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            log.info("compiled kernels: none in %s yet, so this start compiles them", self.path)
            return
        except OSError as error:
            log.warning("compiled kernels: %s cannot be read (%s), so this start compiles them", self.path, error)
            return
        if self.cache.deserialize(data):
            self.kept = data
        else:
            log.info(
                "compiled kernels: %s is of another machine or version and is replaced (%s)",
                self.path,
                self.logger.heard(),
            )
