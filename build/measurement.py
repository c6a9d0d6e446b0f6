"""Errors and times of built stages: the check of the errors against their bounds, and a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from build.errors import BuildError
from build.table import table as aligned


@dataclass(frozen=True)
class Measurement:
    """Results for one stage. Errors are relative to the next higher precision.

    milliseconds and eager_milliseconds are GPU times of one run; None on the CPU or if not measured.
    """

    stage: str
    compile_seconds: float  # duration of bind and the first run
    error: float | None  # None if the engine cannot run here
    eager_error: float | None  # None if the module was not run, as in half precision on the CPU
    floor: float  # error that is always accepted
    milliseconds: float | None
    eager_milliseconds: float | None
    onnx_error: float | None = None  # of the stage's ONNX file in onnxruntime; None if it was not run

    @property
    def bound(self) -> float:
        return max(2 * (self.eager_error or 0), self.floor)

    @property
    def judged(self) -> float:
        """The engine's error, or its ONNX file's if the engine was not run; NaN if neither was run."""
        errors = [error for error in (self.error, self.onnx_error) if error is not None]
        return errors[0] if errors else math.nan

    @property
    def holds(self) -> bool:
        return self.judged <= self.bound  # False for NaN


def check(measurements: Sequence[Measurement]) -> None:
    """Raise BuildError if a stage's error exceeds its bound: twice the eager error, or the floor if larger."""
    for one in measurements:
        if not one.holds:
            what = f"ONNX file of stage {one.stage}" if one.error is None else f"compiled stage {one.stage}"
            raise BuildError(
                f"the {what} has a relative error of {one.judged:.2e}, expected at most {one.bound:.2e}: no engines "
                "were saved; use backend eager"
            )


def table(measurements: Sequence[Measurement]) -> str:
    """Return a printable table with one line per stage."""
    if not measurements:
        return "errors: nothing was compared, because neither the engines nor their ONNX files can run here"
    header = "stage,compile s,error,bound,eager error,onnx error,compiled ms,eager ms"
    rows = []
    for one in measurements:
        errors = [_text(error, ".1e") for error in (one.error, one.bound, one.eager_error, one.onnx_error)]
        times = [_text(time, ".3f") for time in (one.milliseconds, one.eager_milliseconds)]
        rows.append([one.stage, f"{one.compile_seconds:.1f}", *errors, *times])
    return aligned(header.split(","), rows)


def _text(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)
