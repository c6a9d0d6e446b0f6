"""The part of the stand-in that exists only in TensorRT for RTX: a cache of kernels compiled at the first run."""

from tests.standin.parts import ExecutionContextAllocationStrategy, ILogger, error_heard, fails


class IHostMemory(bytes):
    nbytes = property(len)


class IRuntimeCache:
    """A runtime cache; its content is a header and one dot per use."""

    HEADER = b"kernels of this machine"

    def __init__(self, logger: ILogger) -> None:
        self._logger, self._data = logger, self.HEADER

    def serialize(self) -> IHostMemory | None:
        return None if fails("serialize", self._logger) else IHostMemory(self._data)

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(self.HEADER):
            return not error_heard(self._logger, "the runtime cache is from another machine")
        self._data = blob
        return True


class IRuntimeConfig:
    """The configuration that creates an execution context."""

    def __init__(self, logger: ILogger) -> None:
        self._logger, self._strategy = logger, ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache | None:
        return None if fails("create_runtime_cache", self._logger) else IRuntimeCache(self._logger)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        cache._data += b"."
        return not fails("set_runtime_cache", self._logger)
