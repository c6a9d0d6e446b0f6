"""Calls the CUDA runtime and driver through cuda-python and checks every status."""

from collections.abc import Callable
from typing import Any


class CudaError(RuntimeError):
    """A CUDA call failed; the message names the call and contains CUDA's error string."""


class CaptureError(CudaError):
    """The work cannot be captured into a CUDA graph; it can still run without one."""


def cudart() -> Any:
    """Return the module cuda.bindings.runtime, imported on first use. Raise CudaError if it cannot be imported."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise CudaError(f"cuda-bindings cannot be imported ({error}): run ./preprocess.sh") from error
    return runtime


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` and return its values without the status: None, one value, or a tuple.

    Raise CudaError if the status is an error.
    """
    status, *values = function(*arguments)
    if status != 0:
        runtime = cudart()
        code = runtime.cudaError_t(status.value)  # the driver has the same codes
        words = runtime.cudaGetErrorString(code)[1].decode()
        raise CudaError(f"{function.__name__} failed with {status.name}: {words}")
    return values[0] if len(values) == 1 else tuple(values) or None
