"""Captures a pipeline's run into one CUDA graph, and verifies that replay equals eager execution."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cldm.pipeline import Pipeline
from cldm.request import Request
from ldm.tokenizer import Tokenizer
from runtime.cuda import CudaError
from runtime.graph import Graph


@torch.inference_mode()
def record(pipeline: Pipeline, request: Request, tokenizer: Tokenizer) -> None:
    """Capture the pipeline's run into one graph, which the pipeline then replays for every request.

    request: replayed and run eagerly with two seeds to verify the graph.
    Raises CaptureError if the work cannot be captured, and CudaError if replay differs from eager execution or does
    not depend on the seed; then `pipeline.graph` stays as it was.
    """
    assert pipeline.streams.main
    requests = [replace(request, seed=seed) for seed in (0, 1)]
    # Run eagerly first: libraries initialize at their first call, which capture does not allow.
    enqueued, other = (outcome(pipeline, one, tokenizer, pipeline.run) for one in requests)
    for engine in pipeline.engines.values():
        engine.check_capturable(pipeline.streams.main)
    torch.cuda.empty_cache()  # cuDNN's float32 convolutions may fill the memory, and capture cannot free any
    graph = Graph(pipeline.run, pipeline.streams.main)
    launched, other_launched = (outcome(pipeline, one, tokenizer, graph.launch) for one in requests)
    if not same(enqueued, launched) or not same(other, other_launched):
        raise CudaError(f"graph replay differs from eager execution ({graph.nodes} nodes)")
    # Without finite numbers, pictures may well be equal; then the pipeline refuses to return them.
    if pipeline.largest.isfinite().all() and same(launched, other_launched):
        raise CudaError(f"graph replay does not depend on the seed ({graph.nodes} nodes)")
    pipeline.graph = graph


def outcome(
    pipeline: Pipeline, request: Request, tokenizer: Tokenizer, work: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """Return the latent and the pictures that `work` computes for the request, in host memory.

    Values that `work` does not write are NaN in the latent and 0 in the pictures.
    """
    pipeline.write(request, tokenizer)
    with torch.cuda.stream(pipeline.streams.main):
        pipeline.buffers["x"].fill_(torch.nan)
    pipeline.pictures.zero_()
    work()
    pipeline.streams.synchronize()
    return pipeline.buffers["x"].cpu(), pipeline.pictures.clone()


def same(one: tuple[Tensor, Tensor], another: tuple[Tensor, Tensor]) -> bool:
    """Return whether latents and pictures are equal bit for bit; NaN is equal to NaN."""
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(one, another, strict=True))
