"""The guided network of several requests, at any latent and timestep: what finding a plan needs to ask."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cldm.canny import Picture
from cldm.pipeline import Pipeline, time_table
from cldm.request import Request
from ldm.tokenizer import Tokenizer
from runtime.precision import full_float32

WHAT_A_REQUEST_SAYS = ("control_scales", "kv", "hint")  # buffers


class Probe:
    """On a pipeline of the requests' shape and on its engines, launched one by one.

    What depends on a request alone, text and hint, is computed once, here.
    """

    @torch.inference_mode()
    def __init__(self, pipeline: Pipeline, requests: Sequence[Request], tokenizer: Tokenizer) -> None:
        self.pipeline = pipeline
        self.shifts: dict[int, Tensor] = {}  # by timestep
        self.said: list[tuple[Tensor, ...]] = []
        starts = []
        for request in requests:
            pipeline.write(request, tokenizer)
            with torch.cuda.stream(pipeline.lanes.main), full_float32():
                pipeline.prepare()
                self.said.append(tuple(tensor.clone() for tensor in self._buffers))
                starts.append(pipeline.start.clone())
        pipeline.lanes.synchronize()
        self.starts = torch.stack(starts)  # latents of all requests, [m, samples, 4, h/8, w/8]

    @torch.inference_mode()
    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        """Latents as of `starts` -> eps after guidance."""
        pipeline, guided = self.pipeline, []
        if timestep not in self.shifts:
            (self.shifts[timestep],) = time_table(pipeline.model, [timestep])
        pipeline.lanes.begin()
        with torch.cuda.stream(pipeline.lanes.main), full_float32():
            for latent, said in zip(latents, self.said, strict=True):
                for buffer, value in zip(self._buffers, said, strict=True):
                    buffer.copy_(value)
                pipeline.buffers["x"].copy_(latent)
                pipeline.evaluate(self.shifts[timestep])
                guided.append(pipeline.guided())
        pipeline.lanes.synchronize()
        return torch.stack(guided)

    @torch.inference_mode()
    def pictures(self, latents: Tensor) -> list[Picture]:
        """Latents as of `starts` -> the pictures of each, uint8 [h, w, 3], one after another."""
        pipeline, made = self.pipeline, []
        pipeline.lanes.begin()
        for latent in latents:
            with torch.cuda.stream(pipeline.lanes.main), full_float32():
                pipeline.buffers["x"].copy_(latent)
                pipeline.engines["vae"].enqueue(pipeline.lanes.main)
            pipeline.lanes.synchronize()
            made += list(pipeline.buffers["image"].cpu().numpy().copy())
        return made

    @property
    def _buffers(self) -> tuple[Tensor, ...]:
        return (*(self.pipeline.buffers[name] for name in WHAT_A_REQUEST_SAYS), self.pipeline.inputs["scale"])
