"""Computes the roofline limit of a picture: counted operations and bytes, divided by this device's measured rates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.stages import Stage, make_stages
from ldm.config import load_architecture
from plugins.phase_upsampling import upsample_in_phases

PER_EVALUATION = ("control", "encoder", "decoder")


@dataclass(frozen=True)
class Work:
    """The work of one call of a stage.

    flops: floating-point operations; a multiply-add counts as two. bytes: the weights that the call reads, its inputs
    and its outputs, each moved once.
    """

    flops: int
    bytes: int


@dataclass(frozen=True)
class Rates:
    """Measured rates of the device: a large matrix product, and a large copy (bytes read plus bytes written)."""

    flops_per_s: float
    bytes_per_s: float


def count_work(architecture: str, height: int, width: int, dtype: torch.dtype) -> dict[str, Work]:
    """Return the work of one call per stage, for one picture of this size in pixels, as compiled engines do it.

    Needs no weights or device.
    """
    with torch.device("meta"):
        model = make_fast(ControlLDM(load_architecture(architecture)).requires_grad_(False), dtype)
        upsample_in_phases(model)
        return {name: _count(stage) for name, stage in make_stages(model, height, width, samples=1).items()}


def limit_ms(work: Mapping[str, Work], rates: Rates, evaluations: int) -> float:
    """Return a lower bound on the time of a picture in ms.

    Each call of a stage takes at least the longer of its compute time and its memory time.
    """
    times = {name: max(w.flops / rates.flops_per_s, w.bytes / rates.bytes_per_s) for name, w in work.items()}
    return 1000 * sum(time * (evaluations if name in PER_EVALUATION else 1) for name, time in times.items())


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measure the rates of a CUDA device on random data; return the best of several runs as peak rates."""
    size, gibibyte = 8192, 2**30
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(4 * gibibyte, dtype=torch.uint8, device=device).random_(256)
    target = torch.empty_like(source)
    product_s = _best_seconds(lambda: a @ b)
    copy_s = _best_seconds(lambda: target.copy_(source))
    return Rates(2 * size**3 / product_s, 2 * source.numel() / copy_s)


class _Touched(TorchDispatchMode):
    """Collects the sizes in bytes of the weights that operations read."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.weights = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if id(leaf) in self.weights:
                self.sizes[id(leaf)] = leaf.nbytes
        return func(*args, **(kwargs or {}))


def _count(stage: Stage) -> Work:
    inputs, outputs = (
        [torch.empty(t.shape, dtype=t.dtype) for t in side] for side in (stage.spec.inputs, stage.spec.outputs)
    )
    counter, touched = FlopCounterMode(display=False), _Touched(stage.module)
    with counter, touched:
        stage.module(*inputs)
    moved = sum(tensor.nbytes for tensor in (*inputs, *outputs))
    return Work(counter.get_total_flops(), sum(touched.sizes.values()) + moved)


def _best_seconds(work: Callable[[], object], runs: int = 10) -> float:
    best = float("inf")
    for _ in range(runs + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1000)
    return best
