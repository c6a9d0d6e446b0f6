"""Chooses by timing between our kernels and PyTorch's, where they were not tuned: on GPUs other than Hopper.

Before the stages are compiled, each runs once, to find the sizes of the layers that have a choice. Then each layer is
compiled by itself with each answer, and timed in a CUDA graph while nothing else runs.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from build.empty_stage import empty_stage
from build.errors import BuildError, first_line
from cldm.engine_files import Target
from cldm.stages import STAGES
from plugins.choices import CHOICES, Choice, Choices
from plugins.group_norm.layer import FusedGroupNorm
from plugins.hopper.compile import HOPPER
from plugins.phase_upsampling import PhaseUpsample
from plugins.split_k_convolution import SplitKConv2d
from runtime.channels_last import channels_last
from runtime.compiled_code import CompiledCode, Tuning
from runtime.eager import EagerEngine
from runtime.graph import Graph
from runtime.spec import allocate
from runtime.timing import median_ms

log = logging.getLogger(__name__)

ASKING = (SplitKConv2d, FusedGroupNorm, PhaseUpsample)
CALLS, RUNS = 20, 7  # calls in a graph, and launches of it


@dataclass(frozen=True)
class Asking:
    """A layer with a choice, and what it gets and returns."""

    choice: Choice
    layer: nn.Module
    inputs: tuple[Tensor, ...]
    output: Tensor

    @torch.inference_mode()
    def times_ms(self) -> dict[int, float]:
        """Return the milliseconds of CALLS calls by answer, without answers that do not run on this GPU."""
        times = {}
        for answer in self.choice.answers:
            try:
                times[answer] = self._time_ms(answer)
            except (RuntimeError, ValueError) as error:  # of Inductor, kernels and the device; ops refuse sizes
                log.warning("%s: %d does not run here: %s", self.choice.question, answer, first_line(error))
        return times

    def _time_ms(self, answer: int) -> float:
        stream, code = torch.cuda.Stream(self.output.device), CompiledCode(_Alone(self.layer), Tuning())

        def calls(count: int = CALLS) -> None:
            for _ in range(count):
                code(self.inputs, [self.output])

        def launch() -> None:
            graph.launch()
            stream.synchronize()

        CHOICES[self.choice.question] = answer
        try:
            with torch.cuda.stream(stream):
                calls(1)  # compiles
            stream.synchronize()
            graph = Graph(calls, stream)
            return median_ms(launch, RUNS, warmups=1)
        finally:
            del CHOICES[self.choice.question]


class _Alone(nn.Module):
    """A layer as a stage, which returns a tuple."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        return (self.layer(*inputs),)


def has_choices(target: Target, device: torch.device) -> bool:
    """Return whether the device is a GPU that our kernels have not been tuned for, and the target may use them."""
    on_gpu = device.type == "cuda" and target.precision == "fp16"
    return on_gpu and torch.cuda.get_device_capability(device) != HOPPER


def choose(target: Target) -> Choices:
    """Return the fastest answers by question, for the layers of this target on the first GPU.

    Raises BuildError if the stages do not run.
    """
    found: dict[str, int] = {}
    try:
        asking = {one.choice.question: one for name in STAGES for one in _asking(target, name)}
    except RuntimeError as error:
        raise BuildError(f"kernels cannot be chosen ({type(error).__name__}: {first_line(error)})") from error
    for question, one in tqdm(asking.items(), "choosing kernels"):
        if times := one.times_ms():
            found[question] = min(times, key=times.__getitem__)
            log.debug("%s: %d of %s", question, found[question], times)
    del asking
    torch.cuda.empty_cache()
    return found


@torch.inference_mode()
def _asking(target: Target, name: str) -> list[Asking]:
    """Return the layers of a stage that have a choice."""
    device = torch.device("cuda")
    stage, found = empty_stage(target, name, device), list[Asking]()

    def note(layer: nn.Module, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        assert isinstance(layer, ASKING)
        assert inputs[0] is not None
        if len((choice := layer.choice(inputs[0])).answers) > 1:
            maps = [_channels_last(one) for one in (*inputs, output) if one is not None]
            found.append(Asking(choice, layer, tuple(maps[:-1]), maps[-1]))

    layers = [layer for layer in stage.module.modules() if type(layer) in ASKING]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    engine = EagerEngine(stage.spec, channels_last(stage.module))
    engine.bind(allocate({name: stage.spec}, device))
    engine.enqueue(None)
    for hook in hooks:
        hook.remove()
    return found


def _channels_last(x: Tensor) -> Tensor:
    """Return a map in the layout that it has in compiled stages; eager norms return other layouts."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
