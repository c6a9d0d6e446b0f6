"""Captures a pipeline's run into one CUDA graph, and verifies that replay equals eager execution."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cldm.pipeline import Pipeline
from cldm.request import Request
from ldm.tokenizer import Tokenizer
from runtime.cuda import CudaError
from runtime.graph import Graph

log = logging.getLogger(__name__)

# Runs of the same work may differ in rounding: eagerly, one of 63 pictures of 64x64 did so in one of eight comparisons
# on an H200, and pictures of the contest's size never did. A wrong graph never gives the bits of eager execution.
ATTEMPTS = 5


@torch.inference_mode()
def record(pipeline: Pipeline, requests: Sequence[Request], tokenizer: Tokenizer) -> None:
    """Capture the pipeline's run into one graph, which the pipeline then replays for every batch of requests.

    requests: replayed and run eagerly with two seeds to verify the graph.
    Raises CaptureError if the work cannot be captured, and CudaError if replay never equals eager execution or does
    not depend on the seed; then `pipeline.graph` stays as it was.
    """
    assert pipeline.streams.main
    batches = [[replace(request, seed=seed) for request in requests] for seed in (0, 1)]
    # Run eagerly first: libraries initialize at their first call, which capture does not allow.
    enqueued = [outcome(pipeline, one, tokenizer, pipeline.run) for one in batches]
    for engine in pipeline.engines.values():
        engine.check_capturable(pipeline.streams.main)
    torch.cuda.empty_cache()  # cuDNN's float32 convolutions may fill the memory, and capture cannot free any
    graph = Graph(pipeline.run, pipeline.streams.main, pipeline.waiting)
    for attempt in range(1, ATTEMPTS + 1):
        launched = [outcome(pipeline, one, tokenizer, graph.launch) for one in batches]
        if all(map(same, enqueued, launched)):
            break
        apart = max(float((one[0] - other[0]).abs().max()) for one, other in zip(enqueued, launched, strict=True))
        log.warning("graph replay differs from eager execution by %g (attempt %d of %d)", apart, attempt, ATTEMPTS)
        enqueued = [outcome(pipeline, one, tokenizer, pipeline.run) for one in batches]
    else:
        raise CudaError(f"graph replay differs from eager execution ({graph.nodes} nodes)")
    # Without finite numbers, pictures may well be equal; then the pipeline refuses to return them.
    if pipeline.largest.isfinite().all() and same(*launched):
        raise CudaError(f"graph replay does not depend on the seed ({graph.nodes} nodes)")
    pipeline.graph = graph


def outcome(
    pipeline: Pipeline, requests: Sequence[Request], tokenizer: Tokenizer, work: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """Return the latents and the pictures that `work` computes for the requests, in host memory.

    Values that `work` does not write are NaN in the latents and 0 in the pictures.
    """
    pipeline.write(requests, tokenizer)
    with torch.cuda.stream(pipeline.streams.main):
        pipeline.buffers["x"].fill_(torch.nan)
    pipeline.pictures.zero_()
    work()
    pipeline.streams.synchronize()
    return pipeline.buffers["x"].cpu(), pipeline.pictures.clone()


def same(one: tuple[Tensor, Tensor], another: tuple[Tensor, Tensor]) -> bool:
    """Return whether latents and pictures are equal bit for bit; NaN is equal to NaN."""
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(one, another, strict=True))
