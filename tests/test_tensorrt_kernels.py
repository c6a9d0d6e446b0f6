"""Kernels that TensorRT for RTX compiles at the first run are saved for the next start."""

import logging
import os
from pathlib import Path

import pytest
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from runtime.scratch import allocate_scratch
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_calls import TensorRTError
from runtime.tensorrt_kernels import KernelCache
from tests.standin import tensorrt as standin
from tests.tensorrt_toys import (
    CPU,
    SPEC,
    assert_equals_eager,
    buffers_of,
    rtx_serialized,
    serialized,
    standin_is_tensorrt,
    toy,
    toy_file,
)

__all__ = ["rtx_serialized", "serialized", "standin_is_tensorrt", "toy", "toy_file"]  # fixtures


def test_kernels_compiled_at_the_first_run_are_kept(
    rtx_serialized: bytes, toy: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "kernels.bin"
    for starts in (1, 2):
        kernels = KernelCache(path)
        engines = [TensorRTEngine(SPEC, rtx_serialized, CPU, kernels) for _ in range(2)]
        allocate_scratch([engines], CPU)
        for engine in engines:
            buffers = buffers_of(SPEC)
            engine.bind(buffers)
            assert_equals_eager(engine, buffers, toy)
        kernels.save()
        kernels.save()
        assert path.read_bytes() == standin.IRuntimeCache.HEADER + 2 * starts * b".", "one cache for all engines"
        assert [*tmp_path.iterdir()] == [path]
    assert [line.split(" in ")[0] for line in caplog.messages] == [
        "compiled kernels: none",
        *2 * ["compiled kernels: saved 0.0 MiB"],
    ]
    caplog.clear()
    path.write_bytes(b"of another GPU")
    kernels = KernelCache(path)
    TensorRTEngine(SPEC, rtx_serialized, CPU, kernels)
    assert (
        "is damaged or from another machine or version and will be replaced (the runtime cache is from another"
        in caplog.text
    )
    kernels.save()
    assert path.read_bytes() == standin.IRuntimeCache.HEADER + b"."


def test_kernels_that_cannot_be_kept_are_no_error(
    rtx_serialized: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for a writer
    for path, sentence in (
        (tmp_path / "file" / "kernels.bin", "kernels.bin cannot be written"),
        (tmp_path, f"{tmp_path} cannot be read"),
        (tmp_path / "pipe", "it is not a regular file"),
    ):
        kernels = KernelCache(path)
        TensorRTEngine(SPEC, rtx_serialized, CPU, kernels)
        kernels.save()
        assert sentence in caplog.text
    standin.fail_once("serialize")
    kernels.save()
    assert "compiled kernels not saved (serialize: injected failure): the next start" in caplog.text


@pytest.mark.parametrize("call", ["create_runtime_config", "create_runtime_cache", "set_runtime_cache"])
def test_each_failure_of_the_kernels_is_an_error(rtx_serialized: bytes, tmp_path: Path, call: str) -> None:
    standin.fail_once(call)
    with pytest.raises(TensorRTError, match=rf"TensorRT .* runtime .*\(TensorRT: {call}: injected failure\)"):
        TensorRTEngine(SPEC, rtx_serialized, CPU, KernelCache(tmp_path / "kernels.bin"))


def test_classic_engines_have_no_kernels_to_keep(serialized: bytes, tmp_path: Path) -> None:
    kernels = KernelCache(tmp_path / "kernels.bin")
    TensorRTEngine(SPEC, serialized, CPU, kernels)
    kernels.save()
    assert not [*tmp_path.iterdir()]
