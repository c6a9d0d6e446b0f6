"""LRU cache of pipelines, keyed by shape. On a GPU each pipeline is captured into one CUDA graph."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from cldm.batch_sizes import padded, split
from cldm.canny import Picture
from cldm.engine_choice import Engines
from cldm.model import ControlLDM
from cldm.one_graph import record
from cldm.pipeline import Pipeline, Shape, Watch
from cldm.request import Request
from ldm.tokenizer import Tokenizer
from plans.plan import Plan
from runtime.cuda import CaptureError
from runtime.streams import Streams

log = logging.getLogger(__name__)

KEPT = 8  # pipelines, one per shape


class Pipelines:
    """Generates pictures with one model. strict: raise CaptureError, instead of warning, if capture fails."""

    def __init__(
        self, model: ControlLDM, tokenizer: Tokenizer, engines: Engines, streams: Streams, strict: bool
    ) -> None:
        self.model, self.tokenizer, self.engines = model, tokenizer, engines
        self.streams, self.strict = streams, strict
        self.kept: OrderedDict[Shape, Pipeline] = OrderedDict()  # least recently used first

    def draw(self, requests: Sequence[Request], plan: Plan, watch: Watch | None = None) -> list[Picture]:
        """Return the pictures of requests of one size and number of steps, in their order.

        Creates a pipeline for a new shape, replacing the least recently used one.
        """
        shape = self.shape(requests, plan)
        if shape not in self.kept:
            if len(self.kept) == KEPT:
                self.kept.popitem(last=False)
                torch.cuda.empty_cache()
            self.kept[shape] = self._made_alone(shape, requests)
        self.kept.move_to_end(shape)
        return self.kept[shape](requests, self.tokenizer, watch)

    def draw_many(self, requests: Sequence[Request], plan: Plan) -> list[list[Picture]]:
        """Return the pictures of each request, all of one size and number of steps, in batches of several requests."""
        sizes = self.engines.batch_sizes(*requests[0].size)
        made: list[Picture] = []
        for batch in split(requests, sizes):
            count = sum(request.num_samples for request in batch)
            made += self.draw(padded(batch, sizes), plan)[:count]
        pictures = iter(made)
        return [list(islice(pictures, request.num_samples)) for request in requests]

    def shape(self, requests: Sequence[Request], plan: Plan) -> Shape:
        first, samples = requests[0], sum(request.num_samples for request in requests)
        return Shape(*first.size, samples, first.ddim_steps, plan, self.engines.syntax)

    def make(self, shape: Shape, requests: Sequence[Request]) -> Pipeline:
        """Create a pipeline and, on a GPU, capture its graph. Does not add the pipeline to the cache.

        requests: used to verify the graph. Raises TensorRTError if TensorRT rejects an engine, CudaError if the graph
        is wrong and, with strict, EngineFileError or CaptureError. Without strict, these two are logged instead, and
        the pipeline uses eager engines or runs without a graph.
        """
        backend = self.engines.for_size(shape.height, shape.width, shape.samples)
        pipeline = Pipeline(self.model, shape, backend.make_engine, self.streams, backend.name)
        if self.engines.device.type == "cuda":
            try:
                record(pipeline, requests, self.tokenizer)
            except CaptureError as error:
                if self.strict:
                    raise
                pipeline.no_graph = str(error)
                log.warning("no CUDA graph, launching kernels one by one: %s", str(error))
        backend.keep()
        return pipeline

    def _made_alone(self, shape: Shape, requests: Sequence[Request]) -> Pipeline:
        """Create a pipeline; if memory runs out, once more after the others have given theirs back."""
        try:
            return self.make(shape, requests)
        except torch.OutOfMemoryError:
            if not self.kept:
                raise
        log.warning("out of memory with %d other pipelines: freeing them; their sizes start anew", len(self.kept))
        self.clear()
        return self.make(shape, requests)

    @property
    def last(self) -> Pipeline | None:
        """The pipeline of the last picture, or None if the cache is empty."""
        return next(reversed(self.kept.values()), None)

    def laid_out(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return values by name in the precision and memory layout of the weights, so that `load` only copies bytes."""
        weights = self.model.state_dict()
        return {
            name: torch.empty_like(weights[name], device=value.device).copy_(value) for name, value in values.items()
        }

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copy new values into weights, by name and in place."""
        self.model.copy_weights(values)
        for pipeline in self.kept.values():
            pipeline.refresh()

    def clear(self) -> None:
        self.kept.clear()
        torch.cuda.empty_cache()
