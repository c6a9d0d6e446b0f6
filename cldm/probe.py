"""The guided network of several requests, at any latent and any step: what finding a plan needs to ask."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cldm.pipeline import Pipeline
from cldm.request import Request
from ldm.tokenizer import Tokenizer
from runtime.precision import full_float32

WHAT_A_REQUEST_SAYS = ("control_scales", "kv", "hint")  # buffers


class Probe:
    """On a pipeline whose plan evaluates every step, and on its engines; launched one by one, without its graph.

    What depends on a request alone, text and hint, is computed once, here.
    """

    @torch.inference_mode()
    def __init__(self, pipeline: Pipeline, requests: Sequence[Request], tokenizer: Tokenizer) -> None:
        if len(pipeline.shape.plan.evaluated) != pipeline.shape.plan.steps:
            raise ValueError(f"the pipeline evaluates {pipeline.shape.plan.evaluated}: expected every step")
        self.pipeline = pipeline
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
    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Latents as of `starts`, and the index of a step, the noisiest last -> eps after guidance."""
        pipeline, guided = self.pipeline, []
        pipeline.lanes.begin()
        with torch.cuda.stream(pipeline.lanes.main), full_float32():
            for latent, said in zip(latents, self.said, strict=True):
                for buffer, value in zip(self._buffers, said, strict=True):
                    buffer.copy_(value)
                pipeline.buffers["x"].copy_(latent)
                pipeline.evaluate(pipeline.shifts[pipeline.shape.plan.steps - 1 - step])
                guided.append(pipeline.guided())
        pipeline.lanes.synchronize()
        return torch.stack(guided)

    @property
    def _buffers(self) -> tuple[Tensor, ...]:
        return (*(self.pipeline.buffers[name] for name in WHAT_A_REQUEST_SAYS), self.pipeline.inputs["scale"])
