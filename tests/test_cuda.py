"""CUDA runtime calls check every status."""

import sys

import pytest
import torch

from runtime.cuda import CudaError, call, cudart


def test_values_behind_a_good_status() -> None:
    good = cudart().cudaError_t.cudaSuccess
    assert call(lambda: (good,)) is None
    assert call(lambda: (good, 5)) == 5
    assert call(lambda a, b: (good, a, b), 1, 2) == (1, 2)


def test_a_bad_status_is_an_error_in_cuda_s_words() -> None:
    def launch() -> tuple[object]:
        return (cudart().cudaError_t.cudaErrorStreamCaptureInvalidated,)

    message = "launch failed with cudaErrorStreamCaptureInvalidated: operation failed due to a previous error"
    with pytest.raises(CudaError, match=message):
        call(launch)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_real_call_without_a_device() -> None:
    with pytest.raises(CudaError, match="cudaStreamCreate failed with cudaError"):
        call(cudart().cudaStreamCreate)


def test_missing_bindings_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(CudaError, match=r"cuda-bindings cannot be imported .*run \./preprocess\.sh"):
        cudart()
