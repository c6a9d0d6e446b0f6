"""Work recorded once into a CUDA graph and launched as a whole."""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from runtime.cuda import CaptureError, CudaError, call, cudart


class Graph:
    """All that `work` queues on `stream`, and on streams that fork from it and join it again.

    Whatever memory PyTorch takes during the recording comes from a pool that lives as long as the graph. Run the work
    once before: a recording refuses what libraries do at their first call. Not run by being recorded.
    Raises CaptureError if the work cannot be captured, torch.OutOfMemoryError, and CudaError for whatever else is wrong
    with the device; then nothing is left behind.
    """

    def __init__(self, work: Callable[[], object], stream: torch.cuda.Stream) -> None:
        self.stream = stream
        self.pool = torch.cuda.MemPool()
        runtime = cudart()
        with torch.cuda.use_mem_pool(self.pool):
            recorded = _record(runtime, work, stream)
        try:
            self.kinds = _count(runtime, recorded)
            self.executable = call(runtime.cudaGraphInstantiateWithFlags, recorded, 0)
        finally:
            call(runtime.cudaGraphDestroy, recorded)
        self.close = weakref.finalize(self, call, runtime.cudaGraphExecDestroy, self.executable)
        self.close.atexit = False  # the driver may be gone by then, and the memory with it
        call(runtime.cudaGraphUpload, self.executable, stream.cuda_stream)
        self.start = runtime.cudaGraphLaunch

    def launch(self) -> None:
        """Queue the whole on the stream."""
        call(self.start, self.executable, self.stream.cuda_stream)

    @property
    def nodes(self) -> int:
        return self.kinds.total()


def _record(runtime: Any, work: Callable[[], object], stream: torch.cuda.Stream) -> Any:
    # Thread-local: what other threads do meanwhile neither spoils the recording nor gets into it.
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    with torch.cuda.stream(stream):
        call(runtime.cudaStreamBeginCapture, stream.cuda_stream, mode)
        try:
            work()
        except BaseException as error:
            status, unfinished = runtime.cudaStreamEndCapture(stream.cuda_stream)
            if status == 0:
                runtime.cudaGraphDestroy(unfinished)
            if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
                call(runtime.cudaStreamSynchronize, stream.cuda_stream)  # a broken device is no matter of capture
                raise CaptureError(f"{type(error).__name__}: {error}") from error
            raise  # the status would hide what went wrong
        try:
            return call(runtime.cudaStreamEndCapture, stream.cuda_stream)
        except CudaError as error:
            call(runtime.cudaStreamSynchronize, stream.cuda_stream)
            raise CaptureError(str(error)) from error


def _count(runtime: Any, recorded: Any) -> Counter[str]:
    """Number of nodes by kind: Kernel, Memcpy, Memset, ..."""
    _, count = call(runtime.cudaGraphGetNodes, recorded)
    nodes, _ = call(runtime.cudaGraphGetNodes, recorded, count)
    names = (call(runtime.cudaGraphNodeGetType, node).name for node in nodes)
    return Counter(name.removeprefix("cudaGraphNodeType") for name in names)
