"""Refit of TensorRT engines on the stand-in: of a single engine, and through the class hackathon."""

# ruff: noqa: E402

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="./preprocess.sh dev installs the exporter and onnxruntime")

from build.export import export, weight_names
from canny2image_TRT import hackathon
from cldm.checkpoint_choice import find_checkpoint
from cldm.fast import make_fast
from cldm.pipeline_cache import Pipelines
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_calls import TensorRTError
from runtime.tensorrt_refit import check_weights, refit
from tests.arguments import GOOD, Picture
from tests.inside import pipelines_of
from tests.standin import tensorrt as standin
from tests.tensorrt_toys import CPU, LAYOUTS, SPEC, assert_equals_eager, make_toy, message, ready, toy, toy_file
from tests.test_tensorrt_backend import ARCHITECTURE, files, use_standin, write_engines

__all__ = ["files", "toy", "toy_file"]  # fixtures


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.fixture(autouse=True)
def _standin(monkeypatch: pytest.MonkeyPatch, engines: Path) -> Iterator[None]:
    use_standin(monkeypatch, engines)
    yield
    assert not standin.to_fail, "a call that should have failed was not made"


SIZE = (64, 64, 1)


@pytest.fixture
def serialized(toy_file: Path) -> bytes:
    return standin.serialize(toy_file, LAYOUTS, refit=True)


def test_an_engine_with_other_weights_is_the_other_module(serialized: bytes) -> None:
    engine, buffers = ready(SPEC, serialized)
    for seed in (0, 1, 2):
        refit(engine, {name: tensor.double() for name, tensor in make_toy(seed).state_dict().items()})
        assert_equals_eager(engine, buffers, make_toy(seed))


def test_an_engine_without_refit_keeps_its_weights(toy_file: Path) -> None:
    engine = TensorRTEngine(SPEC, standin.serialize(toy_file, LAYOUTS), CPU)
    for ask in (lambda: refit(engine, make_toy(1).state_dict()), lambda: check_weights(engine, [])):
        with pytest.raises(TensorRTError, match=r"toy was built without refit; .* --backend tensorrt --refit") as error:
            ask()
        message(error)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("Refitter", "TensorRT cannot create the Refitter"),
        ("get_all_weights", "engine toy has none of these weights"),
        ("get_weights_prototype", "of 'narrow.bias' are torch.float32, 3 values, expected FLOAT, -1 values"),
        ("set_named_weights", "engine toy: TensorRT rejects the weights of"),
        ("get_missing_weights", "engine toy: TensorRT has merged 1 constants that no checkpoint contains, such as"),
        ("refit_cuda_engine", "engine toy cannot be refitted, and may have a mix of old and new weights"),
    ],
)
def test_each_failure_is_an_error(serialized: bytes, call: str, sentence: str) -> None:
    engine, _ = ready(SPEC, serialized)
    standin.fail_once(call)
    weights = {name: tensor for name, tensor in make_toy(1).state_dict().items() if name == "narrow.bias"}
    with pytest.raises(TensorRTError) as error:
        refit(engine, weights)
    assert sentence in message(error)
    refit(engine, weights)


@pytest.mark.parametrize(
    ("weights", "wrong"),
    [
        ({"narrow.bias": torch.zeros(4)}, "'narrow.bias' are torch.float32, 4 values, expected FLOAT, 3 values"),
        ({"narrow.bias": torch.zeros(3).int()}, "'narrow.bias' are torch.int32, 3 values, expected FLOAT, 3 values"),
        ({"other": torch.zeros(3)}, "has none of these weights"),
    ],
)
def test_weights_of_another_architecture(serialized: bytes, weights: dict[str, torch.Tensor], wrong: str) -> None:
    engine, buffers = ready(SPEC, serialized)
    with pytest.raises(TensorRTError) as error:
        refit(engine, weights)
    assert wrong in message(error)
    assert_equals_eager(engine, buffers, make_toy(0))


def test_an_engine_that_folded_a_weight_is_told_at_its_build(serialized: bytes) -> None:
    engine = TensorRTEngine(SPEC, serialized, CPU)
    check_weights(engine, ["wide.weight", "narrow.bias"])
    with pytest.raises(TensorRTError, match=r"TensorRT cannot refit 1 of 2 weights, such as 'folded'; build"):
        check_weights(engine, ["wide.weight", "folded"])


def test_equal_weights_stay_apart(tmp_path: Path) -> None:
    """By default the exporter merges small tensors that are equal. A refit would then give both the same values."""
    model = find_checkpoint("random:0", "small").load_model()
    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            tensor.zero_()
    keys = model.state_dict().keys()
    ((_, path),) = export(model, (64, 64, 1), tmp_path, names=["hint"])
    assert len(weight_names(path, keys)) == sum("input_hint_block" in key for key in keys)


def started(checkpoint: str, backend: str = "tensorrt") -> hackathon:
    """Return a runtime in the state after initialize(), except for pictures of 64x64."""
    runtime = hackathon(checkpoint, architecture=ARCHITECTURE, backend=backend, plan="19,7", device="cpu")
    engines, model = runtime._engines, make_fast(runtime.checkpoint.load_model(), torch.float32)
    size = engines._size(*SIZE)
    engines.backend = engines._find(size, (backend,), needed=True)
    engines.found = {size: engines.backend}
    tokenizer = runtime.checkpoint.load_tokenizer()
    runtime._pipelines = Pipelines(model, tokenizer, engines, runtime._streams, strict=False)
    return runtime


def drawn(runtime: hackathon, **changes: Any) -> Picture:
    return runtime.process(**{**GOOD, **changes})[0]


@pytest.mark.usefixtures("tiny")
def test_pictures_after_loading_are_those_of_engines_built_from_these_weights(engines: Path, files: Path) -> None:
    write_engines(1, files, SIZE)
    fresh = started("random:1")
    expected = drawn(fresh)
    with pytest.raises(ValueError, match=r"engine text was built without refit; .* --refit; or create a new hackathon"):
        fresh.load_weights("random:0")
    write_engines(0, files, SIZE, refit=True)
    runtime = started("random:0")
    before = drawn(runtime)
    assert np.abs(before.astype(int) - expected).mean() > 5
    pipelines = list(pipelines_of(runtime).kept.values())
    runtime.load_weights("random:1")
    assert not pipelines_of(runtime).kept, "pipelines must be created again"
    assert np.array_equal(drawn(runtime), expected)
    assert set(pipelines_of(runtime).kept.values()).isdisjoint(pipelines)
    runtime._engines.found.clear()  # engines are looked up again, as for another picture size
    pipelines_of(runtime).clear()
    assert np.array_equal(drawn(runtime), expected)
    runtime.load_weights("random:0")
    assert np.array_equal(drawn(runtime), before)

    other = drawn(runtime, seed=6)
    for call in ("Refitter", "set_named_weights", "get_missing_weights", "refit_cuda_engine"):
        kept = list(pipelines_of(runtime).kept.values())
        standin.fail_once(call)
        with pytest.raises(
            ValueError,
            match=rf"got weights random:1 \(tiny, given\), .* of random:0: .*{call}: injected failure.*new hackathon",
        ):
            runtime.load_weights("random:1")
        assert list(pipelines_of(runtime).kept.values()) == kept
        assert np.array_equal(drawn(runtime, seed=6), other), "nothing has changed"

    (file,) = engines.glob("*/engines.bin")
    file.write_bytes(file.read_bytes().replace(b'"tuning.refit": true', b'"tuning.refit": false'))
    runtime.load_weights("random:1")
    runtime._engines.found.clear()
    pipelines_of(runtime).clear()
    assert np.abs(drawn(runtime).astype(int) - expected).max() <= 1
    assert [backend.name for backend in runtime._engines.found.values()] == ["eager"], (
        "engine files without refit have other weights"
    )
