"""The whole picture in one CUDA graph: captures a pipeline's run, and verifies that replay equals eager execution."""

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
    """Let the pipeline launch one graph from now on, whatever the request; this one is what it is tried on.

    Raises CaptureError where the work cannot be captured, and CudaError where replay differs from eager execution; then
    the pipeline stays as it was.
    """
    assert pipeline.streams.main
    requests = [replace(request, seed=seed) for seed in (0, 1)]
    # Enqueued first: libraries do at their first call what a recording refuses.
    enqueued, other = (outcome(pipeline, one, tokenizer, pipeline.run) for one in requests)
    for engine in pipeline.engines.values():
        engine.check_capturable(pipeline.streams.main)
    torch.cuda.empty_cache()  # cuDNN's float32 convolutions may have taken all there is, and a recording frees nothing
    graph = Graph(pipeline.run, pipeline.streams.main)
    launched, other_launched = (outcome(pipeline, one, tokenizer, graph.launch) for one in requests)
    if not same(enqueued, launched) or not same(other, other_launched):
        raise CudaError(f"graph replay differs from eager execution ({graph.nodes} nodes)")
    if same(launched, other_launched):
        raise CudaError(f"graph replay does not depend on the seed ({graph.nodes} nodes)")
    pipeline.graph = graph


def outcome(
    pipeline: Pipeline, request: Request, tokenizer: Tokenizer, work: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """The latent and the pictures that `work` makes of the request; NaN and black where it writes nothing."""
    pipeline.write(request, tokenizer)
    with torch.cuda.stream(pipeline.streams.main):
        pipeline.buffers["x"].fill_(torch.nan)
    pipeline.pictures.zero_()
    work()
    pipeline.streams.synchronize()
    return pipeline.buffers["x"].cpu(), pipeline.pictures.clone()


def same(one: tuple[Tensor, Tensor], another: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, another, strict=True))
