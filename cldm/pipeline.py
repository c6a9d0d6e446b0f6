"""The fast path: six engines around one set of buffers, run by the plan.

Whatever a caller may change from call to call is a buffer that the engines and the update read; only the picture's
size, the number of samples, the number of steps and the plan are fixed when a pipeline is made.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cldm.canny import Picture, hint_image
from cldm.model import ControlLDM
from cldm.plan import Evaluation, Plan, evaluations
from cldm.request import Request
from cldm.stages import make_stages
from ldm.tokenizer import Tokenizer
from runtime.engine import Engine
from runtime.graph import Graph
from runtime.lanes import Lane, Lanes
from runtime.precision import full_float32
from runtime.scratch import allocate_scratch
from runtime.spec import EngineSpec, allocate
from runtime.timing import Span, Timeline

SIDE = ("hint", "control")  # the stages that run beside others; each lane runs one at a time
MakeEngine = Callable[[EngineSpec, nn.Module], Engine]


@dataclass(frozen=True)
class Shape:
    """What is fixed for the life of a pipeline."""

    height: int
    width: int
    samples: int
    ddim_steps: int
    plan: Plan


class Pipeline:
    """Pictures of one shape from requests. `model` is on the lanes' device, in the precision of its engines.

    `run` needs nothing but the buffers and leaves them ready for the next call, so that a graph can stand in for it.
    """

    def __init__(self, model: ControlLDM, shape: Shape, make_engine: MakeEngine, lanes: Lanes) -> None:
        self.model, self.shape, self.lanes = model, shape, lanes
        self.device = device = lanes.device
        self.abar = model.alphas_cumprod.double().cpu().numpy()
        self.residuals = len(model.control.zero_convs) + 1
        self.graph: Graph | None = None
        self.no_graph = "the CPU has none" if device.type == "cpu" else "not captured"  # why, where there is none
        self.clock: Timeline | None = None
        stages = make_stages(model, shape.height, shape.width, shape.samples)
        lanes.begin()
        with torch.cuda.stream(self.lanes.main):
            self.buffers = allocate({name: stage.spec for name, stage in stages.items()}, device)
            self.engines = {name: make_engine(stage.spec, stage.module) for name, stage in stages.items()}
            beside = ([one for name, one in self.engines.items() if (name in SIDE) == side] for side in (False, True))
            allocate_scratch(beside, device)
            for engine in self.engines.values():
                engine.bind(self.buffers)
            x, steps = self.buffers["x"], self._evaluations(eta=0.0)
            self.start = torch.zeros_like(x)
            self.noise = torch.zeros((len(steps), *x.shape), device=device)
            self.shifts = torch.zeros_like(self.buffers["shift"]).repeat(len(steps), 1)
            self.inputs = {
                "tokens": self.buffers["tokens"],
                "edges": torch.zeros((shape.height, shape.width), dtype=torch.uint8, device=device),
                "control_scales": self.buffers["control_scales"],
                "scale": torch.zeros((), device=device),
                "updates": torch.zeros((len(steps), 2 + len(steps[0].weights)), device=device),
            }
        pinned = device.type == "cuda"  # or the processor would wait for the copies
        self.written = {
            name: torch.zeros(buffer.shape, dtype=buffer.dtype, pin_memory=pinned)
            for name, buffer in self.inputs.items()
        }
        self.pictures = torch.empty(self.buffers["image"].shape, dtype=torch.uint8, pin_memory=pinned)
        self.refresh()

    @torch.inference_mode()
    def refresh(self) -> None:
        """Compute anew what depends on the weights alone. Call it when they have changed in place."""
        self.abar = self.model.alphas_cumprod.double().cpu().numpy()
        self.lanes.begin()
        with torch.cuda.stream(self.lanes.main):
            self.shifts.copy_(time_table(self.model, [step.timestep for step in self._evaluations(eta=0.0)]))

    @torch.inference_mode()
    def __call__(self, request: Request, tokenizer: Tokenizer) -> list[Picture]:
        """The request's pictures, uint8 [height, width, 3] each."""
        self.write(request, tokenizer)
        if self.graph:
            self.graph.launch()
        else:
            self.run()
        self.lanes.synchronize()
        return list(self.pictures.numpy().copy())

    @torch.inference_mode()
    def write(self, request: Request, tokenizer: Tokenizer) -> None:
        """Put everything the request says where `run` reads it; nothing may be running."""
        steps = self._evaluations(request.eta)
        said = {
            "tokens": tokenizer(request.prompts),
            "edges": request.edges(),
            "control_scales": request.control_scales(self.residuals),
            "scale": request.scale,
            "updates": [[step.a, 1.0, *step.weights] for step in steps],  # on x, noise and eps
        }
        for name, buffer in self.written.items():
            buffer.numpy()[...] = said[name]  # by NumPy: PyTorch would wake all its threads, which takes milliseconds
        with torch.cuda.stream(self.lanes.main):
            draw_noise(int(request.seed), steps, self.start, self.noise)

    @torch.inference_mode()
    def run(self) -> None:
        """From what was written to the pictures in host memory, once the lanes are synchronized."""
        x = self.buffers["x"]
        with torch.cuda.stream(self.lanes.main), full_float32():
            self.prepare()
            x.copy_(self.start)
            guided: list[Tensor] = []  # newest first
            numbers = zip(self.shape.plan.calls_control, self.shifts, self.inputs["updates"], self.noise, strict=True)
            for control, shift, update, noise in numbers:
                self.evaluate(shift, control)
                with self._span("update"):
                    guided = [self.guided(), *guided][: len(update) - 2]
                    terms = torch.stack([x, noise, *guided])  # as many kernels, however many taps
                    x.copy_((update[: len(terms), None, None, None, None] * terms).sum(dim=0))
            self._enqueue("vae")
            with self._span("copy"):
                self.pictures.copy_(self.buffers["image"], non_blocking=True)

    def prepare(self) -> None:
        """What of a picture does not depend on the latent: keys and values of the text, and the hint."""
        for name, buffer in self.inputs.items():
            buffer.copy_(self.written[name], non_blocking=True)
        self.buffers["hint_image"].copy_(hint_image(self.inputs["edges"]))
        self._side_by_side("text", "hint")

    def evaluate(self, shift: Tensor, control: bool = True) -> None:
        """From the latent x to eps with and without the prompt, at the timestep whose row of `shifts` is given."""
        self.buffers["shift"].copy_(shift)
        if control:
            self._side_by_side("encoder", "control")
        else:
            self._enqueue("encoder")  # the residuals of the last time are still there
        self._enqueue("decoder")

    def guided(self) -> Tensor:
        """eps after guidance, [samples, 4, h/8, w/8]."""
        with_prompt, without = self.buffers["eps"].chunk(2)
        return without + self.inputs["scale"] * (with_prompt - without)

    @torch.inference_mode()
    def timeline(self) -> list[Span]:
        """Every stage of one more run on the buffers as they are: of a graph if there is one, else enqueued."""
        self.clock = Timeline(self.device)
        try:
            marked = Graph(self.run, self.graph.stream) if self.graph else None
            if marked:
                marked.launch()
            else:
                self.run()
            self.lanes.synchronize()  # before the marked graph's memory goes
            return self.clock.spans()
        finally:
            self.clock = None

    def _side_by_side(self, main: str, side: str) -> None:
        self.lanes.fork()
        self._enqueue(side, "side")
        self._enqueue(main)
        self.lanes.join()

    def _enqueue(self, name: str, lane: Lane = "main") -> None:
        with self._span(name, lane):
            self.engines[name].enqueue(self.lanes.stream(lane))

    def _span(self, name: str, lane: Lane = "main") -> AbstractContextManager[None]:
        return self.clock.span(name, lane, self.lanes.stream(lane)) if self.clock else nullcontext()

    def _evaluations(self, eta: float) -> tuple[Evaluation, ...]:
        return evaluations(self.shape.plan, self.abar, self.shape.ddim_steps, eta)


def to_precision(model: ControlLDM, dtype: torch.dtype) -> ControlLDM:
    """The model with its weights in `dtype`, in place, and those of self-attention packed.

    What goes into the time shifts stays float32, it runs once per plan.
    """
    for name, parameter in model.named_parameters():
        if not any(part in name for part in ("time_embed", "emb_layers", "in_layers.2.bias")):
            parameter.data = parameter.data.to(dtype)
    for transformer in (*model.control.transformers(), *model.unet.transformers()):
        transformer.self_attention.pack()
    return model


@torch.inference_mode()
def time_table(model: ControlLDM, timesteps: list[int]) -> Tensor:
    """What time adds to every ResBlock of ControlNet and UNet, one row per timestep: [n, sum of the widths]."""
    t = torch.tensor(timesteps, device=next(model.parameters()).device)
    return torch.cat([*model.control.time_shifts(t), *model.unet.time_shifts(t)], dim=1)


def draw_noise(seed: int, steps: tuple[Evaluation, ...], x: Tensor, noise: Tensor) -> None:
    """Fill x with the starting latent, and noise[k] with all that the updates up to evaluation k + 1 add.

    Draws in the original's order: the latent first, then one z per DDIM step, whether the step calls the network or
    not. A generator of its own gives what seeding the global one would, and leaves that one alone.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    x.normal_(generator=generator)
    noise.zero_()
    if any(weight for step in steps for weight in step.noise):
        for total, step in zip(noise, steps, strict=True):
            for weight in step.noise:
                total += weight * torch.randn(x.shape, generator=generator, device=x.device)
