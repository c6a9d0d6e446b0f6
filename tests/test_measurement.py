"""The errors of built stages: measured, checked and printed."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from build.errors import BuildError
from build.measurement import Measurement, check, table
from build.verify import relative_error

GOOD = Measurement("vae", 1.0, 1e-6, 2e-6, 1e-5, None, None)


@pytest.mark.parametrize(
    ("error", "eager_error", "floor", "good"),
    [
        (1e-3, 6e-4, 1e-5, True),
        (1e-3, 4e-4, 1e-5, False),
        (9e-6, 0.0, 1e-5, True),
        (2e-5, 0.0, 1e-5, False),
        (float("nan"), 1.0, 1e-5, False),
        (float("inf"), 1.0, 1e-5, False),
    ],
)
def test_twice_the_eager_error_is_allowed(error: float, eager_error: float, floor: float, good: bool) -> None:
    one = replace(GOOD, error=error, eager_error=eager_error, floor=floor)
    if good:
        check([GOOD, one])
    else:
        with pytest.raises(BuildError, match="the compiled stage vae has a relative error of"):
            check([GOOD, one])


def test_table_is_aligned() -> None:
    timed = replace(GOOD, stage="control", compile_seconds=123.4, milliseconds=1.25, eager_milliseconds=10.5)
    lines = table([GOOD, timed]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["control", "123.4", "1.0e-06", "1.0e-05", "2.0e-06", "-", "1.250", "10.500"]
    assert table([replace(GOOD, onnx_error=3e-6)]).split()[-3:] == ["3.0e-06", "-", "-"]


def test_without_a_gpu_the_file_is_judged_and_named() -> None:
    one = replace(GOOD, error=None, onnx_error=3e-6)
    check([one])
    assert table([one]).splitlines()[1].split() == ["vae", "1.0", "-", "1.0e-05", "2.0e-06", "3.0e-06", "-", "-"]
    for onnx_error in (0.5, float("nan"), None):
        with pytest.raises(BuildError, match="the ONNX file of stage vae has a relative error of"):
            check([replace(one, onnx_error=onnx_error)])


def test_a_table_of_nothing_is_a_sentence() -> None:
    assert table([]).startswith("errors: nothing was compared, because ")


def test_an_output_of_zeros_is_held_against_zero() -> None:
    zeros, ones = torch.zeros(3), torch.ones(3)

    def error(got: Tensor, true: Tensor) -> float:
        return relative_error([ones, got], [ones, true])

    assert error(zeros, zeros) == 0
    assert error(ones, zeros) == float("inf")
    assert error(zeros, ones) == 1
