"""Errors of the device, which PyTorch reports in several lines, in one sentence that says what to do."""

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from runtime.cuda import CaptureError, CudaError
from runtime.failed_device import keep_memory

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# PyTorch on the CPU, cuBLAS and cuDNN, whose errors have no class of their own.
NO_MEMORY = re.compile(r"DefaultCPUAllocator|_STATUS_ALLOC_FAILED|out of memory", re.IGNORECASE)
OF_CUDA = re.compile(r"^cu\w+ failed with cuda")  # the message of `runtime.cuda.call`
TRIED = re.compile(r"[Tt]r(?:ied|ying) to allocate ([\d.]+ \w+)")


def in_one_sentence(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a function raise torch.OutOfMemoryError or CudaError, in one sentence, for errors of the device."""

    @wraps(work)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return work(*args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            said = _sentence(error)
            if said is None:
                raise
        raise said  # here it has no context, whose frames would keep a half-made pipeline alive

    return run


def _sentence(error: RuntimeError | MemoryError) -> RuntimeError | None:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or NO_MEMORY.search(str(error)):
        tried = TRIED.search(str(error))
        amount = f" (tried to allocate {tried[1]})" if tried else ""
        return torch.OutOfMemoryError(
            f"out of memory{amount}: use fewer samples or a smaller picture, or free memory that others hold"
        )
    if isinstance(error, CaptureError):
        return None
    if isinstance(error, torch.AcceleratorError) or OF_CUDA.search(str(error)):
        keep_memory()
        first = str(error).partition("\n")[0]
        return CudaError(f"the GPU failed ({first}): start a new process, because most such errors stay until it ends")
    return None
