"""The errors and times of built stages, whether they are good enough, and a table of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from build.errors import BuildError
from build.table import table as aligned


@dataclass(frozen=True)
class Measurement:
    """One stage. Errors are relative to the next higher precision; times are None on the CPU."""

    stage: str
    compile_seconds: float
    error: float | None  # None where the engine cannot be run here
    eager_error: float | None  # None where the module was not run in its own precision, which half precision is slow in
    floor: float
    milliseconds: float | None
    eager_milliseconds: float | None
    onnx_error: float | None = None  # of the stage's ONNX file in onnxruntime; None where that was not run

    @property
    def bound(self) -> float:
        return max(2 * (self.eager_error or 0), self.floor)

    @property
    def judged(self) -> float:
        """The engine's error, or in its place that of the file it was built from; NaN where neither was run."""
        errors = [error for error in (self.error, self.onnx_error) if error is not None]
        return errors[0] if errors else math.nan

    @property
    def holds(self) -> bool:
        return self.judged <= self.bound  # NaN does not


def check(measurements: Sequence[Measurement]) -> None:
    """Raises BuildError if a stage errs more than twice as much as the eager one."""
    for one in measurements:
        if not one.holds:
            what = f"ONNX file of stage {one.stage}" if one.error is None else f"compiled stage {one.stage}"
            raise BuildError(
                f"the {what} has the relative error {one.judged:.2e}, expected at most {one.bound:.2e}: nothing is "
                "saved; use backend eager"
            )


def table(measurements: Sequence[Measurement]) -> str:
    """One line per stage, to be printed."""
    if not measurements:
        return "errors: nothing was compared, because nothing here runs the engines or their ONNX files"
    header = "stage,compile s,error,bound,eager error,onnx error,compiled ms,eager ms"
    rows = []
    for one in measurements:
        errors = [_text(error, ".1e") for error in (one.error, one.bound, one.eager_error, one.onnx_error)]
        times = [_text(time, ".3f") for time in (one.milliseconds, one.eager_milliseconds)]
        rows.append([one.stage, f"{one.compile_seconds:.1f}", *errors, *times])
    return aligned(header.split(","), rows)


def _text(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)
