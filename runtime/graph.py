"""CUDA graphs: capture work once, then launch all of it with one call."""

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from runtime.cuda import CaptureError, CudaError, call, cudart
from runtime.early_launch import OLDEST, launch_early
from runtime.failed_device import keep_memory, of_device


class Graph:
    """A CUDA graph of everything that `work` queues on `stream`, and on streams that fork from it and join it again.

    Creating the object calls `work` once to capture it, without executing the work. Run the work once before: libraries
    initialize at their first call, which is not allowed during capture. Memory that PyTorch allocates during capture
    comes from a pool that lives as long as the graph. `early`: the number of kernels that start early (launch_early);
    waiting: the beginnings of names of kernels of others that wait.
    Raises CaptureError if the work cannot be captured, torch.OutOfMemoryError, and CudaError for other errors of the
    device. A RuntimeError of `work` becomes a CaptureError; its other exceptions propagate. After a failure, all
    resources are freed.
    """

    def __init__(self, work: Callable[[], object], stream: torch.cuda.Stream, waiting: Sequence[str] = ()) -> None:
        self.stream = stream
        runtime = cudart()
        with torch.cuda.device(stream.device):  # pools belong to the current device
            self.pool = of_device(torch.cuda.MemPool())
            with torch.cuda.use_mem_pool(self.pool):
                recorded = _record(runtime, work, stream)
        try:
            self.kinds = _count(runtime, recorded)
            newer = torch.cuda.get_device_capability(stream.device) >= OLDEST
            self.early = launch_early(recorded, waiting) if newer else 0
            self.executable = call(runtime.cudaGraphInstantiateWithFlags, recorded, 0)
        finally:
            call(runtime.cudaGraphDestroy, recorded)
        self.close = weakref.finalize(self, call, runtime.cudaGraphExecDestroy, self.executable)
        self.close.atexit = False  # at exit the driver may already be shut down, and the memory freed
        call(runtime.cudaGraphUpload, self.executable, stream.cuda_stream)
        self.start = runtime.cudaGraphLaunch

    def launch(self) -> None:
        """Queue the graph on the stream."""
        call(self.start, self.executable, self.stream.cuda_stream)

    @property
    def nodes(self) -> int:
        return self.kinds.total()


def _record(runtime: Any, work: Callable[[], object], stream: torch.cuda.Stream) -> Any:
    # Thread-local: calls of other threads neither invalidate the capture nor get captured.
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
                _check_device(runtime, stream)
                raise CaptureError(f"{type(error).__name__}: {error}") from error
            raise  # not the status, which would hide the cause
        try:
            return call(runtime.cudaStreamEndCapture, stream.cuda_stream)
        except CudaError as error:
            _check_device(runtime, stream)
            raise CaptureError(str(error)) from error


def _check_device(runtime: Any, stream: torch.cuda.Stream) -> None:
    """Raise CudaError if the device has failed, which no later call can change."""
    try:
        call(runtime.cudaStreamSynchronize, stream.cuda_stream)
    except CudaError:
        keep_memory()
        raise


def _count(runtime: Any, recorded: Any) -> Counter[str]:
    """Return the number of nodes by kind: Kernel, Memcpy, Memset, ..."""
    _, count = call(runtime.cudaGraphGetNodes, recorded)
    nodes, _ = call(runtime.cudaGraphGetNodes, recorded, count)
    names = (call(runtime.cudaGraphNodeGetType, node).name for node in nodes)
    return Counter(name.removeprefix("cudaGraphNodeType") for name in names)
