"""The fast path: six engines around one set of buffers, run according to the plan.

Everything that may change between calls is in a buffer that the engines and the update read. Only the picture's size,
the number of samples, the number of steps and the plan are fixed when a pipeline is created.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cldm.batch import control_rows, draw_noises, edge_rows, pictures_of, text_rows, update_rows
from cldm.canny import Picture, hint_image
from cldm.finite import check_finite, largest
from cldm.model import ControlLDM
from cldm.prompt_syntax import PLAIN, PromptSyntax
from cldm.request import Request
from cldm.stages import make_stages, to_uint8
from cldm.tricks.time_table import time_table
from ldm.tokenizer import Tokenizer
from plans.plan import Evaluation, Plan, evaluations
from plugins.derived import derive_weights
from plugins.update.op import update
from runtime.engine import Engine
from runtime.graph import Graph
from runtime.pinned import PinnedInputs, pinned
from runtime.precision import full_float32
from runtime.scratch import allocate_scratch
from runtime.spec import EngineSpec, allocate
from runtime.streams import StreamName, Streams
from runtime.timing import Span, Timeline

# Threads that find edges, for GPUs: OpenCV takes longest of all that precedes a graph's launch, 0.2 to 0.6 ms each.
BESIDE = ThreadPoolExecutor(4, "edges")
SIDE = ("hint", "control")  # stages on the side stream; each stream runs one stage at a time
MakeEngine = Callable[[EngineSpec, nn.Module], Engine]
Watch = Callable[[str], object]  # called with the name of each stage when it starts; a graph does not call it


@dataclass(frozen=True)
class Shape:
    """The fixed properties of a pipeline."""

    height: int
    width: int
    samples: int
    ddim_steps: int
    plan: Plan
    syntax: PromptSyntax = PLAIN


class Pipeline:
    """Generates pictures of one shape. `model` is on the streams' device, in the precision of its engines.

    `run` uses only the buffers and leaves them ready for the next call, so it can be captured into a graph.
    """

    def __init__(
        self, model: ControlLDM, shape: Shape, make_engine: MakeEngine, streams: Streams, backend: str = "eager"
    ) -> None:
        self.model, self.shape, self.streams, self.backend = model, shape, streams, backend
        self.device = device = streams.device
        self.residuals = len(model.control.zero_convs) + 1
        self.graph: Graph | None = None
        self.no_graph = "the CPU has none" if device.type == "cpu" else "not captured"  # reason for no graph
        self.clock: Timeline | None = None
        self.watch: Watch | None = None
        stages = make_stages(model, shape.height, shape.width, shape.samples, shape.syntax)
        streams.begin()
        with torch.cuda.stream(self.streams.main):
            self.buffers = allocate({name: stage.spec for name, stage in stages.items()}, device)
            self.engines = {name: make_engine(stage.spec, stage.module) for name, stage in stages.items()}
            beside = ([one for name, one in self.engines.items() if (name in SIDE) == side] for side in (False, True))
            allocate_scratch(beside, device)
            for engine in self.engines.values():
                engine.bind(self.buffers)
            x, calls = self.buffers["x"], len(shape.plan.evaluated)
            self.start = torch.zeros_like(x)
            self.noise = torch.zeros((calls, *x.shape), device=device)
            self.guides = torch.zeros_like(self.noise)  # eps after guidance, of every evaluation
            self.shifts = torch.zeros_like(self.buffers["shift"]).repeat(calls, 1)
            self.inputs = PinnedInputs(
                {
                    **{spec.name: self.buffers[spec.name] for spec in stages["text"].spec.inputs},
                    "edges": torch.zeros((len(x), shape.height, shape.width), dtype=torch.uint8, device=device),
                    "control_scales": self.buffers["control_scales"],
                    "scale": torch.zeros(len(x), device=device),
                    "updates": torch.zeros((calls, 2 + shape.plan.mixed, len(x)), device=device),
                }
            )
        self.pictures = pinned(to_uint8(self.buffers["pixels"]))
        self.largest = pinned(largest(x, self.buffers["pixels"]))
        self.refresh()

    @torch.inference_mode()
    def refresh(self) -> None:
        """Recompute everything that depends only on the weights. Call it after they have changed in place."""
        self.abar = self.model.alphas_cumprod.double().cpu().numpy()
        self.steps: dict[float, tuple[Evaluation, ...]] = {}  # by eta
        self.streams.begin()
        with torch.cuda.stream(self.streams.main):
            derive_weights(self.model)
            self.shifts.copy_(time_table(self.model, [step.timestep for step in self._evaluations(eta=0.0)]))

    @torch.inference_mode()
    def __call__(self, requests: Sequence[Request], tokenizer: Tokenizer, watch: Watch | None = None) -> list[Picture]:
        """Return the pictures of requests of this shape, uint8 [height, width, 3] each, in the order of the requests.

        The requests have `samples` pictures in all. Raises ValueError if a picture is not finite.
        """
        self.write(requests, tokenizer)
        if self.graph:
            self.graph.launch()
        else:
            self.watch = watch
            self.run()
            self.watch = None
        self.streams.synchronize()
        for one, found in zip(pictures_of(requests), self.largest.T, strict=True):
            check_finite(found, one)
        return list(self.pictures.numpy().copy())

    @torch.inference_mode()
    def write(self, requests: Sequence[Request], tokenizer: Tokenizer) -> None:
        """Write the requests into the inputs and the noise that `run` reads."""
        self.streams.synchronize()  # an interrupted call may still be running
        on_gpu = self.device.type == "cuda"
        edges = (BESIDE.map if on_gpu else map)(Request.edge_map, requests)
        steps = {request.eta: self._evaluations(request.eta) for request in requests}
        pictures = pictures_of(requests)
        with torch.cuda.stream(self.streams.main):
            draw_noises(requests, [steps[request.eta] for request in requests], self.start, self.noise)
        said = {
            **text_rows(tokenizer, requests, self.shape.syntax),
            "edges": edge_rows(requests, edges),
            "control_scales": control_rows(requests, self.residuals),
            "scale": [request.scale for request in pictures],
            "updates": update_rows([steps[request.eta] for request in pictures]),
        }
        self.inputs.write(said)

    @torch.inference_mode()
    def run(self) -> None:
        """Enqueue the written requests; their pictures are in host memory once the streams are synchronized."""
        x = self.buffers["x"]
        with torch.cuda.stream(self.streams.main), full_float32():
            self.prepare()
            x.copy_(self.start)
            eps, scale, updates = self.buffers["eps"], self.inputs.buffers["scale"], self.inputs.buffers["updates"]
            for i, shift in enumerate(self.shifts):
                self.evaluate(shift)
                with self._span("update"):
                    update(x, self.noise[i], eps, scale, updates[i], self.guides[: i + 1])
            self._enqueue("vae")
            with self._span("copy"):
                self.pictures.copy_(to_uint8(self.buffers["pixels"]), non_blocking=True)
                self.largest.copy_(largest(x, self.buffers["pixels"]), non_blocking=True)

    def prepare(self) -> None:
        """Compute what does not depend on the latent: the keys and values of the text, and the hint."""
        self.inputs.upload()
        self.buffers["hint_image"].copy_(hint_image(self.inputs.buffers["edges"]))
        self._side_by_side("text", "hint")

    def evaluate(self, shift: Tensor) -> None:
        """Compute eps with and without the prompt from the latent x; `shift` is the timestep's row of `shifts`."""
        self.buffers["shift"].copy_(shift)
        self._side_by_side("encoder", "control")
        self._enqueue("decoder")

    @property
    def waiting(self) -> tuple[str, ...]:
        """The beginnings of names of the engines' kernels that wait: see `runtime/early_launch.py`."""
        return tuple({name for engine in self.engines.values() for name in engine.waiting})

    @property
    def settings(self) -> dict[str, str]:
        """How a picture is generated: backend, evaluations and graph."""
        plan, graph = self.shape.plan, self.graph
        return {
            "backend": self.backend,
            "evaluates": f"{len(plan.evaluated)} of {plan.steps} steps",
            "graph": f"one graph of {graph.nodes} nodes" if graph else f"no graph: {self.no_graph}",
        }

    @torch.inference_mode()
    def timeline(self) -> list[Span]:
        """Run once more on the current buffers, as a graph if there is one, and return the span of every stage."""
        self.clock = Timeline(self.device)
        try:
            marked = Graph(self.run, self.graph.stream, self.waiting) if self.graph else None
            if marked:
                marked.launch()
            else:
                self.run()
            self.streams.synchronize()  # before the graph with the timing events is freed
            return self.clock.spans()
        finally:
            self.clock = None

    def _side_by_side(self, main: str, side: str) -> None:
        self.streams.fork()
        self._enqueue(side, "side")
        self._enqueue(main)
        self.streams.join()

    def _enqueue(self, name: str, stream: StreamName = "main") -> None:
        if self.watch:
            self.watch(name)
        with self._span(name, stream):
            self.engines[name].enqueue(self.streams[stream])

    def _span(self, name: str, stream: StreamName = "main") -> AbstractContextManager[None]:
        return self.clock.span(name, stream, self.streams[stream]) if self.clock else nullcontext()

    def _evaluations(self, eta: float) -> tuple[Evaluation, ...]:
        if eta not in self.steps:
            self.steps = {eta: evaluations(self.shape.plan, self.abar, self.shape.ddim_steps, eta)}
        return self.steps[eta]
