"""CUDA's runtime through cuda-python, with every status looked at."""

from collections.abc import Callable
from typing import Any


class CudaError(RuntimeError):
    """A call of CUDA's runtime failed; the message says which, in CUDA's own words."""


class CaptureError(CudaError):
    """Work that a CUDA graph cannot hold: it runs without one."""


def cudart() -> Any:
    """The module cuda.bindings.runtime, imported when it is needed. Raises CudaError if it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise CudaError(f"cuda-bindings cannot be imported ({error}): run ./preprocess.sh") from error
    return runtime


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns behind its status: None, the one value, or a tuple. Raises CudaError if it failed."""
    status, *values = function(*arguments)
    if status != 0:
        words = cudart().cudaGetErrorString(status)[1].decode()
        raise CudaError(f"{function.__name__} failed with {status.name}: {words}")
    return values[0] if len(values) == 1 else tuple(values) or None
