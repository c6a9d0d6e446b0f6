"""Process-wide settings of the host: they do not change what we compute, and are as before afterwards."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from canny2image_TRT import hackathon
from runtime.call_lock import defaults
from runtime.fused_attention import fused_attention
from runtime.precision import full_float32
from runtime.shared_context import SharedContext
from tests.arguments import process

on: Any = torch.backends
OLD: dict[str, Callable[[], Any]] = {
    "cuBLAS": lambda: on.cuda.matmul.allow_tf32,
    "cuDNN": lambda: on.cudnn.allow_tf32,
    "matmul": torch.get_float32_matmul_precision,
}
NEW: dict[str, Any] = {
    "all": on,
    "matmul": on.cuda.matmul,
    "cuDNN": on.cudnn,
    "conv": on.cudnn.conv,
    "rnn": on.cudnn.rnn,
    "CPU": on.mkldnn,
    "CPU matmul": on.mkldnn.matmul,
    "CPU conv": on.mkldnn.conv,
}


def settings() -> dict[str, Any]:
    """Return all settings, as strings where the old interface raises because it contradicts the new one."""
    found: dict[str, Any] = {f"new {name}": one.fp32_precision for name, one in NEW.items()}
    for name, read in OLD.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "contradicts"
    return found


def _set(one: Any, value: Any, name: str = "fp32_precision") -> Callable[[], None]:
    return lambda: setattr(one, name, value)


HOSTS: dict[str, Callable[[], None]] = {
    "default": lambda: None,
    "old, tf32 in matmul": _set(on.cuda.matmul, True, "allow_tf32"),
    "old, ieee in cuDNN": _set(on.cudnn, False, "allow_tf32"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "new, tf32 in matmul": _set(on.cuda.matmul, "tf32"),
    "new, ieee in conv": _set(on.cudnn.conv, "ieee"),
    "new, tf32 everywhere": _set(on, "tf32"),
    "new, ieee everywhere": _set(on, "ieee"),
    "new, tf32 in cuDNN": _set(on.cudnn, "tf32"),
    "new, bf16 on the CPU": _set(on.mkldnn.matmul, "bf16"),
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    for one in (on, on.cudnn, on.mkldnn, on.cuda.matmul):
        one.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    on.cudnn.allow_tf32 = True
    for one in (on.mkldnn.matmul, on.mkldnn.conv, on.mkldnn.rnn):
        one.fp32_precision = "none"


@pytest.mark.parametrize("host", HOSTS)
def test_full_float32_under_any_settings(host: str) -> None:
    HOSTS[host]()
    before = settings()
    with full_float32():
        inside = settings()
        with full_float32():
            assert settings() == inside
        assert settings() == inside
    assert settings() == before
    assert {inside[f"new {name}"] for name in ("matmul", "conv", "rnn", "CPU matmul", "CPU conv")} == {"ieee"}
    assert [inside[name] for name in OLD] == [False, False, "highest"], "torch.compile reads the old interface"


@pytest.mark.parametrize("host", ["high", "new, tf32 in matmul", "new, tf32 everywhere", "new, bf16 on the CPU"])
def test_pictures_under_other_settings(runtime: hackathon, host: str) -> None:
    expected = process(runtime)[0]
    HOSTS[host]()
    before = settings()
    assert np.array_equal(process(runtime)[0], expected)
    assert settings() == before


@pytest.mark.parametrize("context", [full_float32, defaults, fused_attention])
def test_two_threads_restore_what_the_first_one_found(context: Callable[[], Any]) -> None:
    def found() -> Any:
        return settings(), torch.get_default_dtype(), torch._C._get_sdp_priority_order()

    torch.set_default_dtype(torch.float64)
    try:
        torch.set_float32_matmul_precision("high")
        before = found()
        one, two = context(), context()
        one.__enter__()
        inside = found()
        assert inside != before
        two.__enter__()
        one.__exit__(None, None, None)
        assert found() == inside, "the second thread is still inside"
        two.__exit__(None, None, None)
        assert found() == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_context_that_cannot_be_entered_is_tried_again() -> None:
    made = iter([RuntimeError("no"), full_float32()])

    def make() -> Any:
        if isinstance(one := next(made), Exception):
            raise one
        return one

    shared = SharedContext(make)
    with pytest.raises(RuntimeError, match="no"), shared():
        pass
    with shared():
        assert shared.inside == 1
    assert shared.context is None


def test_a_forked_child_leaves_what_a_thread_was_in() -> None:
    torch.set_default_dtype(torch.float64)
    inside = defaults()
    inside.__enter__()
    try:
        if (child := os.fork()) == 0:
            os._exit(0 if torch.get_default_dtype() == torch.float64 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        inside.__exit__(None, None, None)
        torch.set_default_dtype(torch.float32)
