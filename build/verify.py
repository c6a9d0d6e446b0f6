"""Measures the errors of a stage's engine and of its eager module, against the module in higher precision."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from build.measurement import Measurement
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.stages import Size, Stage, make_stages
from runtime.eager import EagerEngine
from runtime.engine import Engine
from runtime.precision import full_float32
from runtime.spec import allocate

SEED = 0
RUNS = 20  # runs per stage for the median time

HIGHER = {torch.float16: torch.float32, torch.float32: torch.float64}  # precision of the reference results
# Relative errors that rounding the outputs alone can cause; for uint8, one grey level.
FLOORS = {torch.float16: 1e-3, torch.float32: 1e-5, torch.uint8: 1 / 255}
NOT_RUN = 2 * torch.finfo(torch.float16).eps  # floor for half-precision modules that were not run


@dataclass(frozen=True)
class Truth:
    """The expected outputs of a stage, in higher precision, and the results of its eager module."""

    outputs: list[Tensor]
    eager_outputs: list[Tensor]  # if the module was not run: `outputs`, rounded to the dtype of the buffers
    eager_error: float | None  # None if the module was not run

    @property
    def floor(self) -> float:
        """The error that is always accepted."""
        floor = max(FLOORS[output.dtype] for output in self.eager_outputs)
        return floor if self.eager_error is not None else max(floor, NOT_RUN)


@dataclass(frozen=True)
class Trial:
    """All stages, their expected results, and buffers that hold the inputs of all stages."""

    stages: dict[str, Stage]
    truths: dict[str, Truth]
    buffers: dict[str, Tensor]
    device: torch.device

    def measure(self, engine: Engine, timed: bool = True) -> Measurement:
        """Bind and run one stage's engine, and return its error and times. timed: measure times on a GPU.

        Afterwards the output buffers hold the results of the eager module.
        """
        truth = self.truths[engine.spec.name]
        start = time.perf_counter()
        error = self.error(engine)
        measurement = Measurement(
            stage=engine.spec.name,
            compile_seconds=time.perf_counter() - start,
            error=error,
            eager_error=truth.eager_error,
            floor=truth.floor,
            milliseconds=median_milliseconds(partial(engine.enqueue, None), self.device) if timed else None,
            eager_milliseconds=self._eager_milliseconds(engine.spec.name) if timed else None,
        )
        for output, eager in zip(engine.spec.pick(self.buffers)[1], truth.eager_outputs, strict=True):
            output.copy_(eager)  # the next stage's expected results were computed from these
        return measurement

    def _eager_milliseconds(self, name: str) -> float | None:
        if self.truths[name].eager_error is None:
            return None
        eager = EagerEngine(self.stages[name].spec, self.stages[name].module)
        eager.bind(self.buffers)
        return median_milliseconds(partial(eager.enqueue, None), self.device)

    def error(self, engine: Engine) -> float:
        """Bind a stage's engine, run it once and return its relative error."""
        engine.bind(self.buffers)
        _, outputs = engine.spec.pick(self.buffers)
        for output in outputs:
            output.zero_()
        engine.enqueue(None)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return relative_error(outputs, self.truths[engine.spec.name].outputs)


def prepare(
    model: ControlLDM, dtype: torch.dtype, size: Size, device: torch.device, eager: bool = True, fp8: bool = False
) -> Trial:
    """Return a trial of the model, which must be float32 and on `device`; it is converted to `dtype` in place.

    eager: also run the modules in `dtype` (takes minutes in half precision on the CPU). fp8: as for `make_fast`; the
    expected results are not rounded.
    """
    higher = make_fast(deepcopy(model), HIGHER[dtype])
    stages = make_stages(make_fast(model, dtype, fp8), *size)
    buffers = allocate({name: stage.spec for name, stage in stages.items()}, device)
    _randomize(buffers, stages, model.architecture.text.vocabulary)
    exact = make_stages(higher, *size)
    truths = {name: _truth(stage, exact[name], buffers, eager) for name, stage in stages.items()}
    return Trial(stages, truths, buffers, device)


def _randomize(buffers: Mapping[str, Tensor], stages: Mapping[str, Stage], vocabulary: int) -> None:
    """Fill the buffers that no stage writes with random values, equal on every device. The stages fill the others."""
    generator = torch.Generator().manual_seed(SEED)
    written = {spec.name for stage in stages.values() for spec in stage.spec.outputs}
    for name in sorted(buffers.keys() - written):
        buffer = buffers[name]
        if buffer.is_floating_point():
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
            if name == "token_weights":
                buffer.mul_(0.1).add_(1)  # as in prompts, where most weights are 1
        else:
            buffer.copy_(torch.randint(vocabulary, buffer.shape, generator=generator))


@torch.inference_mode()
def _truth(stage: Stage, exact: Stage, buffers: Mapping[str, Tensor], eager: bool) -> Truth:
    """Run one stage in higher precision and, if `eager`, in its own. Leave its outputs in the buffers."""
    inputs, outputs = stage.spec.pick(buffers)
    with full_float32():
        true = list(exact.module(*(x.to(spec.dtype) for x, spec in zip(inputs, exact.spec.inputs, strict=True))))
        if not eager:
            for output, value in zip(outputs, true, strict=True):
                output.copy_(value)
            return Truth(true, [output.clone() for output in outputs], None)
        engine = EagerEngine(stage.spec, stage.module)
        engine.bind(buffers)
        engine.enqueue(None)
        results = [output.clone() for output in outputs]
        return Truth(true, results, relative_error(results, true))


def relative_error(got: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """Return the largest |got - true| / |true| of the outputs, in the Euclidean norm; 0 if both are 0."""
    return float(torch.stack([_relative(g.double(), t.double()) for g, t in zip(got, true, strict=True)]).max())


def _relative(got: Tensor, true: Tensor) -> Tensor:
    difference = (got - true).norm()
    return difference / true.norm() if difference else difference


def median_milliseconds(enqueue: Callable[[], object], device: torch.device) -> float | None:
    """Return the median GPU time of one run on the current stream, including gaps between kernels; None on the CPU."""
    if device.type != "cuda":
        return None
    enqueue()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(RUNS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        enqueue()
        mark.record()
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in pairwise(marks))
