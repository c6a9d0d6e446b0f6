"""Runs the guided network for several requests at once, at any latents and timestep, to find plans."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cldm.batch import control_rows, draw_noises, edge_rows, text_rows
from cldm.canny import Picture, hint_image
from cldm.model import ControlLDM
from cldm.prompt_syntax import PLAIN
from cldm.request import Request
from cldm.stages import make_stages, to_uint8
from cldm.tricks.time_table import time_table
from ldm.tokenizer import Tokenizer
from plans.plan import Plan, evaluations
from runtime.graph import Graph
from runtime.precision import full_float32
from runtime.streams import Streams


class Probe:
    """Runs the stages of `model` in PyTorch, in the model's precision, on all requests as one batch.

    On a GPU, the first evaluation captures a CUDA graph, and every evaluation replays it. The constructor computes what
    does not depend on the latents.
    Raise ValueError unless all requests have num_samples 1 and the same size.
    """

    @torch.inference_mode()
    def __init__(self, model: ControlLDM, requests: Sequence[Request], tokenizer: Tokenizer) -> None:
        size = _common_size(requests)
        self.model, self.device = model, model.alphas_cumprod.device
        self.abar = model.alphas_cumprod.double().cpu().numpy()
        self.stages = make_stages(model, *size, samples=len(requests))
        self.streams = Streams(self.device)
        self.streams.begin()
        self.work: Callable[[], None] | None = None
        self.shifts: dict[int, Tensor] = {}  # by timestep
        with torch.cuda.stream(self.streams.main), full_float32():
            tokens = text_rows(tokenizer, requests, PLAIN)["tokens"].to(self.device)
            (self.kv,) = self.stages["text"].module(tokens)
            edges = edge_rows(requests, (one.edge_map() for one in requests))
            (self.hint,) = self.stages["hint"].module(hint_image(torch.from_numpy(edges).to(self.device)))
            scales = control_rows(requests, len(model.control.zero_convs) + 1)
            self.control_scales = torch.tensor(scales, dtype=self.kv.dtype, device=self.device)
            self.scale = torch.tensor([one.scale for one in requests], device=self.device)[:, None, None, None]
            self.starts = torch.zeros(self.stages["vae"].spec.inputs[0].shape, device=self.device)
            draw_noises(requests, [()] * len(requests), self.starts, self.starts.new_zeros(0, len(requests)))
            self.x, self.eps = torch.zeros_like(self.starts), torch.zeros_like(self.starts)
            self.shift = self._shift(0).clone()
        self.streams.synchronize()

    @torch.inference_mode()
    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        """Return eps after guidance, float32, for latents [requests, 4, h/8, w/8]."""
        self.streams.begin()
        with torch.cuda.stream(self.streams.main), full_float32():
            self.x.copy_(latents)
            self.shift.copy_(self._shift(timestep))
            self.work = self.work or self._recorded()
            self.work()
            eps = self.eps.clone()
        self.streams.synchronize()
        return eps

    @torch.inference_mode()
    def draw(self, plan: Plan, ddim_steps: int) -> Tensor:
        """Return the final latents of all requests with a plan and eta = 0; the requests' own eta is ignored."""
        x, known = self.starts, list[Tensor]()
        for step in evaluations(plan, self.abar, ddim_steps):
            known = [self(x, step.timestep), *known][: len(step.weights)]
            x = step.a * x + sum(weight * eps for weight, eps in zip(step.weights, known, strict=False))
        return x

    @torch.inference_mode()
    def pictures(self, latents: Tensor) -> list[Picture]:
        """Decode latents one at a time, and return a picture, uint8 [h, w, 3], for each."""
        with full_float32():
            pixels = [self.stages["vae"].module(latent)[0] for latent in latents.split(1)]
            return [to_uint8(one)[0].cpu().numpy() for one in pixels]

    def _evaluate(self) -> None:
        residuals = self.stages["control"].module(self.x, self.hint, self.shift, self.kv, self.control_scales)
        features = self.stages["encoder"].module(self.x, self.shift, self.kv)
        (eps,) = self.stages["decoder"].module(*features, *residuals, self.shift, self.kv)
        with_prompt, without = eps.chunk(2)
        self.eps.copy_(without + self.scale * (with_prompt - without))

    def _recorded(self) -> Callable[[], None]:
        if not self.streams.main:
            return self._evaluate
        self._evaluate()  # the first call initializes libraries, which capture does not allow
        return Graph(self._evaluate, self.streams.main).launch

    def _shift(self, timestep: int) -> Tensor:
        if timestep not in self.shifts:
            self.shifts[timestep] = time_table(self.model, [timestep]).to(self.kv.dtype)
        return self.shifts[timestep]


def _common_size(requests: Sequence[Request]) -> tuple[int, int]:
    """Return (height, width), which must be equal for all requests."""
    if {(one.num_samples, one.size) for one in requests} != {(1, requests[0].size)}:
        raise ValueError("requests of a probe: expected num_samples 1 and the same size")
    return requests[0].size
