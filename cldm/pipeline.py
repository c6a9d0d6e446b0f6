"""The fast path: six engines around one set of buffers, run by the plan.

Whatever a caller may change from call to call is a buffer that the engines and the update read; only the picture's
size, the number of samples, the number of steps and the plan are fixed when a pipeline is made.
"""

from collections.abc import Callable
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
from runtime.precision import full_float32
from runtime.spec import EngineSpec, allocate

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
    """Pictures of one shape from requests. `model` is on `device`, in the precision that its engines shall have."""

    def __init__(self, model: ControlLDM, shape: Shape, make_engine: MakeEngine, device: torch.device) -> None:
        self.shape = shape
        self.device = device
        self.abar = model.alphas_cumprod.double().cpu().numpy()
        self.residuals = len(model.control.zero_convs) + 1
        stages = make_stages(model, shape.height, shape.width, shape.samples)
        self.buffers = allocate({name: stage.spec for name, stage in stages.items()}, device)
        self.engines = {name: make_engine(stage.spec, stage.module) for name, stage in stages.items()}
        for engine in self.engines.values():
            engine.bind(self.buffers)
        steps = self._evaluations(eta=0.0)
        self.shifts = time_table(model, [step.timestep for step in steps]).to(self.buffers["shift"])
        self.scale = torch.zeros((), device=device)
        self.updates = torch.zeros((len(steps), 1 + len(steps[0].weights)), device=device)
        self.noise = torch.zeros((len(steps), *self.buffers["x"].shape), device=device)

    @torch.inference_mode()
    def __call__(self, request: Request, tokenizer: Tokenizer) -> list[Picture]:
        """The request's pictures, uint8 [height, width, 3] each."""
        self.write(request, tokenizer)
        with full_float32():
            self.run()
        return list(self.buffers["image"].to("cpu", copy=True).numpy())

    @torch.inference_mode()
    def write(self, request: Request, tokenizer: Tokenizer) -> None:
        """Put everything the request says into the buffers."""
        steps = self._evaluations(request.eta)
        buffers = self.buffers
        buffers["tokens"].copy_(tokenizer(request.prompts))
        buffers["hint_image"].copy_(hint_image(request.edges()))
        buffers["control_scales"].copy_(torch.tensor(request.control_scales(self.residuals)))
        self.scale.fill_(request.scale)
        self.updates.copy_(torch.tensor([[step.a, *step.weights] for step in steps]))
        draw_noise(int(request.seed), steps, buffers["x"], self.noise)

    @torch.inference_mode()
    def run(self) -> None:
        """From the written buffers to the picture in the buffer `image`."""
        x, eps = self.buffers["x"], self.buffers["eps"]
        self._enqueue("text", "hint")
        guided: list[Tensor] = []  # newest first
        for shift, update, noise in zip(self.shifts, self.updates, self.noise, strict=True):
            self.buffers["shift"].copy_(shift)
            self._enqueue("control", "encoder", "decoder")
            with_prompt, without = eps.chunk(2)
            guided = [without + self.scale * (with_prompt - without), *guided][: len(update) - 1]
            weighted = [weight * e for weight, e in zip(update[1:], guided, strict=False)]
            x.copy_(torch.stack([update[0] * x, noise, *weighted]).sum(dim=0))
        self._enqueue("vae")

    def _enqueue(self, *names: str) -> None:
        for name in names:
            self.engines[name].enqueue(None)

    def _evaluations(self, eta: float) -> tuple[Evaluation, ...]:
        return evaluations(self.shape.plan, self.abar, self.shape.ddim_steps, eta)


def to_precision(model: ControlLDM, dtype: torch.dtype) -> ControlLDM:
    """The model with its weights in `dtype`, in place; time layers stay float32, they run once per plan."""
    for name, parameter in model.named_parameters():
        if "time_embed" not in name and "emb_layers" not in name:
            parameter.data = parameter.data.to(dtype)
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
