"""Generates the contest's picture with the peers' networks, kernel by kernel or captured into one CUDA graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.diffusers_networks import Networks
from benchmarks.timing import WARMUPS
from cldm.canny import Picture
from cldm.stages import to_uint8
from ldm.diffusion import Floats
from plans.plan import evaluations, make_plan
from runtime.precision import full_float32

STEPS = 20
SCALE = 9.0


@dataclass(frozen=True)
class Inputs:
    """The inputs that change from picture to picture, on any device."""

    tokens: Tensor  # int [2, 77]: prompt and negative prompt
    hint_image: Tensor  # float32 [1, 3, h, w] in 0..1
    noise: Tensor  # float32 [1, 4, h / 8, w / 8], the starting latent

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.tokens, self.hint_image, self.noise


Peer = Callable[[Inputs], Picture]  # uint8 [h, w, 3] in host memory, a new array per call


class Drawing:
    """Generates the whole picture on the device without host copies, so that a CUDA graph can capture it."""

    def __init__(self, networks: Networks, abar: Floats, plan: str, device: torch.device) -> None:
        self.networks = networks
        self.evaluations = evaluations(make_plan(plan, STEPS), abar, STEPS)
        # One tensor per timestep: Python numbers would be copied to the device in every call, and views of one tensor
        # would be misaligned.
        self.timesteps = [torch.full((2,), step.timestep, device=device) for step in self.evaluations]

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Tensor:
        """Inputs on the device -> uint8 [h, w, 3] on the device."""
        networks = self.networks
        with full_float32(), cudnn_benchmark(networks.compiled):
            context = networks.context(inputs.tokens)
            hint = torch.cat([inputs.hint_image] * 2).to(networks.dtype)
            x = inputs.noise
            for t, step in zip(self.timesteps, self.evaluations, strict=True):
                with_prompt, without = networks.eps(torch.cat([x, x]), t, context, hint).chunk(2)
                x = step.a * x + step.weights[0] * (without + SCALE * (with_prompt - without))
            return to_uint8(networks.pixels(x))[0]


class StepByStep:
    """Launches every kernel from Python."""

    def __init__(self, drawing: Drawing, device: torch.device) -> None:
        self.drawing, self.device = drawing, device

    def __call__(self, inputs: Inputs) -> Picture:
        picture = self.drawing(Inputs(*(tensor.to(self.device) for tensor in inputs.tensors)))
        return picture.cpu().numpy()


class OneGraph:
    """Launches one graph of the drawing and the copy to the host. The first call captures the graph."""

    def __init__(self, drawing: Drawing, device: torch.device) -> None:
        self.drawing, self.device = drawing, device
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, inputs: Inputs) -> Picture:
        if self.graph is None:
            self.graph = self._record(inputs)
        for buffer, tensor in zip(self.buffers.tensors, inputs.tensors, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        self.graph.replay()
        torch.cuda.current_stream(self.device).synchronize()
        return self.host.numpy().copy()

    def _record(self, inputs: Inputs) -> torch.cuda.CUDAGraph:
        # Capture with zeros, not the inputs, so that a graph that does not read its buffers gives another picture.
        self.buffers = Inputs(*(torch.zeros_like(tensor, device=self.device) for tensor in inputs.tensors))
        self.host = torch.empty((*inputs.hint_image.shape[2:], 3), dtype=torch.uint8, pin_memory=True)
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARMUPS):  # compile, choose kernels and allocate workspaces, which capture does not allow
                self.drawing(self.buffers)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.host.copy_(self.drawing(self.buffers), non_blocking=True)
        return graph


@contextmanager
def cudnn_benchmark(wanted: bool) -> Iterator[None]:
    """Within the block, set whether cuDNN times its algorithms at the first convolution of each shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
