"""A pipeline's run as one CUDA graph, taken only once it has been seen to do the same."""

from collections.abc import Callable

import torch
from torch import Tensor

from cldm.pipeline import Pipeline
from runtime.cuda import CudaError
from runtime.graph import Graph


@torch.inference_mode()
def record(pipeline: Pipeline) -> None:
    """Let the pipeline launch one graph from now on, whatever the request.

    Raises CudaError, or PyTorch's RuntimeError, where the work cannot be recorded or the graph draws other pictures;
    then the pipeline stays as it was.
    """
    assert pipeline.lanes.main
    pipeline.run()  # once before, for what libraries do at their first call only
    pipeline.lanes.synchronize()
    graph = Graph(pipeline.run, pipeline.lanes.main)
    enqueued, other = (_outcome(pipeline, pipeline.run, seed) for seed in (0, 1))
    launched, other_launched = (_outcome(pipeline, graph.launch, seed) for seed in (0, 1))
    if not _same(enqueued, launched) or not _same(other, other_launched):
        raise CudaError(f"the graph of {graph.nodes} nodes draws other pictures than its work enqueued one by one")
    if _same(launched, other_launched):
        raise CudaError(f"the graph of {graph.nodes} nodes draws the same picture from another latent")
    pipeline.graph = graph


def _outcome(pipeline: Pipeline, work: Callable[[], None], seed: int) -> tuple[Tensor, Tensor]:
    """The latent and the pictures that `work` makes of the noise of `seed`; NaN and black where it writes nothing."""
    with torch.cuda.stream(pipeline.lanes.main):
        pipeline.start.normal_(generator=torch.Generator(pipeline.device).manual_seed(seed))
        pipeline.buffers["x"].fill_(torch.nan)
    pipeline.pictures.zero_()
    work()
    pipeline.lanes.synchronize()
    return pipeline.buffers["x"].cpu(), pipeline.pictures.clone()


def _same(one: tuple[Tensor, Tensor], another: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, another, strict=True))
