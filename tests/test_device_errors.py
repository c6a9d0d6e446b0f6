"""Errors of the device arrive in one sentence, and a lack of memory leaves a working runtime."""

import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from canny2image_TRT import hackathon
from cldm.pipeline import Pipeline
from runtime.cuda import CaptureError, CudaError
from runtime.device_errors import in_one_sentence
from runtime.failed_device import of_device
from tests.arguments import process
from tests.inside import pipelines_of

OF_CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 5.00 GiB is "
    "free. Including non-PyTorch memory, this process has 74.10 GiB memory in use.\nSee documentation."
)
OF_CPU = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 b"
STICKY = (
    "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress' in https://docs.\n"
    "CUDA kernel errors might be asynchronously reported at some other API call."
)
SENTENCES: list[tuple[Exception, type[Exception], str]] = [
    (torch.OutOfMemoryError(OF_CUDA), torch.OutOfMemoryError, r"out of memory \(tried to allocate 20.00 GiB\): use"),
    (RuntimeError(OF_CPU), torch.OutOfMemoryError, "out of memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), torch.OutOfMemoryError, "out of memory: use fewer"),
    (MemoryError("Unable to allocate 9 GiB for an array"), torch.OutOfMemoryError, "out of memory"),
    (CudaError("cudaGraphLaunch failed with cudaErrorMemoryAllocation: out of memory"), torch.OutOfMemoryError, "out"),
    (torch.AcceleratorError(STICKY), CudaError, r"the GPU failed \(CUDA error: an illegal .*\): start a new"),
    (CudaError("cudaGraphLaunch failed with cudaErrorLaunchFailure: unspecified"), CudaError, r"the GPU failed \(cud"),
]


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return in_one_sentence(work)


@pytest.mark.parametrize(("error", "kind", "sentence"), SENTENCES, ids=lambda value: str(value)[:20])
def test_sentences(error: Exception, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=f"^{sentence}") as found:
        raising(error)()
    assert "\n" not in str(found.value)
    assert found.value.__context__ is None, "its frames would keep memory"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("other"), ValueError("other"), CudaError("replay differs"), CaptureError("cudaX failed with cudaY")],
)
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as found:
        raising(error)()
    assert found.value is error


def test_a_lack_of_memory_frees_other_pipelines_first(
    runtime: hackathon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, expected_two = process(runtime)[0], process(runtime, num_samples=2)[1]
    kept, real, failed = pipelines_of(runtime).kept, Pipeline.__init__, []

    def make(self: Pipeline, *args: Any) -> None:
        real(self, *args)
        if kept:
            failed.append(weakref.ref(self))
            raise torch.OutOfMemoryError(OF_CUDA)
        assert failed[-1]() is None, "the failed pipeline still holds memory"

    kept.popitem()
    monkeypatch.setattr(Pipeline, "__init__", make)
    assert np.array_equal(process(runtime, num_samples=2)[1], expected_two)
    assert "other pipelines: freeing them" in caplog.text
    assert len(kept) == 1
    monkeypatch.setattr(Pipeline, "__init__", Mock(side_effect=torch.OutOfMemoryError(OF_CUDA)))
    with pytest.raises(torch.OutOfMemoryError, match="use fewer samples or a smaller picture"):
        process(runtime, num_samples=3)
    monkeypatch.undo()
    assert np.array_equal(process(runtime)[0], expected)


def test_registered_memory_is_freed_only_while_the_device_works() -> None:
    first, second = of_device(torch.zeros(2)), of_device(torch.zeros(2))
    ends = [weakref.ref(one) for one in (first, second)]
    del first
    assert ends[0]() is None
    with pytest.raises(CudaError, match="the GPU failed"):
        raising(torch.AcceleratorError(STICKY))()
    del second
    assert ends[1]() is not None
