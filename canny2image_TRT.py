"""The drop-in class of the TensorRT Hackathon 2023: a picture from canny edges and a prompt."""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cldm.checkpoint import find_checkpoint
from cldm.engine_files import Target, find_engines, refitted
from cldm.model import ControlLDM
from cldm.pipeline import Pipeline, Shape, to_precision
from cldm.plan import STEPS, Plan, make_plan
from cldm.plan_choice import best_plan, eligible_plans, measure_costs
from cldm.plan_files import PlanFile, choose_plan, usual_steps_of
from cldm.record import record
from cldm.request import Request, drawn
from runtime.artifacts import EngineFileError
from runtime.backends import BACKENDS, Backend, choose_backends, choose_device, choose_precision
from runtime.cuda import CaptureError
from runtime.fence import defaults
from runtime.inductor import channels_last
from runtime.lanes import Lanes
from runtime.tensorrt_calls import TensorRTError
from runtime.timing import Span, median_ms
from scoring.leaderboard import leaderboard_score

# Log str(error), not the exception: its traceback keeps the pipeline alive.
log = logging.getLogger(__name__)

PIPELINES = 4  # kept at a time: one per picture size, number of samples, number of steps and plan


class hackathon:
    """`initialize()` once, then `process()` per picture; names and arguments are the contest's.

    checkpoint: a .pth or .safetensors file, "SD15_FOLDER:CONTROLNET_FOLDER" of the diffusers library, or
        "random:SEED"; by default the first that is found (see cldm/checkpoint.py).
    architecture: a file of models/*.yaml, "sd15" or "small"; by default what belongs to the checkpoint.
    backend: "auto", "eager", "inductor" or "tensorrt", whose engine files `python -m build` makes; "auto" takes
        TensorRT's or else inductor's on a GPU if they are there. precision: "auto", "fp32" or "fp16".
    device: "auto", "cpu", "cuda" or "cuda:N".
    plan: "ten", "all", the indices of the steps that call the network, a plan file (see cldm/plan_files.py), a Plan, or
        "auto": of the plan files the one with the best leaderboard score by this machine's times, or, given max_pd,
        the quickest whose distance is not above that (see cldm/plan_choice.py).
    strict: raise where otherwise a warning says what is used instead: no CUDA graph, or engine files that are damaged,
        of another version or not there for a picture's size.

    Raises ValueError with one sentence for a choice that this machine or project does not have.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        *,
        architecture: str | None = None,
        backend: str = "auto",
        plan: str | Plan = "ten",
        max_pd: float | None = None,
        precision: str = "auto",
        device: str = "auto",
        strict: bool = False,
    ) -> None:
        self.checkpoint = self.built = find_checkpoint(checkpoint, architecture)  # TensorRT's files are built from it
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.backends = choose_backends(backend, self.device)
        self.backend = BACKENDS["eager"]  # until initialize() has looked for engine files
        if max_pd is not None and plan != "auto":
            raise ValueError(f"max_pd: got {max_pd} with plan {plan!r}, expected plan 'auto', which it bounds")
        self.plan, self.max_pd, self.strict = plan, max_pd, strict
        self.auto: PlanFile | None = None  # what "auto" stands for, from initialize() on
        # An unknown plan is an error now, not at the first picture.
        self.eligible = eligible_plans(self.checkpoint.architecture, max_pd) if plan == "auto" else []
        self.usual_steps = STEPS if self.eligible else usual_steps_of(plan, self.checkpoint.architecture)
        self.plans: dict[tuple[str | Plan, int], Plan] = {}  # plan files are read once, as are engine files
        self.found: dict[Target, Backend] = {}
        self.pipelines: OrderedDict[Shape, Pipeline] = OrderedDict()  # the one used last comes last
        self.lanes = Lanes(self.device)
        self.lock = threading.RLock()
        self.process_id = os.getpid()

    @defaults()
    def initialize(self) -> None:
        """Read the weights, make the pipeline of the contest's shape, on a GPU record it, and run it once.

        Raises ValueError with one sentence if the chosen backend or its engine files cannot be used here.
        """
        with self._alone():
            try:
                self._initialize()
            except (TensorRTError, CaptureError) as error:
                raise ValueError(str(error)) from error

    def _initialize(self) -> None:
        with tqdm(total=3, delay=2, leave=False, disable=None) as progress:
            progress.set_description("reading weights")
            self._load_model()
            progress.update()
            self._start(self.backends, progress)
            progress.update()

    @defaults()
    def process(
        self,
        input_image: NDArray[np.uint8],
        prompt: str,
        a_prompt: str,
        n_prompt: str,
        num_samples: int,
        image_resolution: int,
        ddim_steps: int,
        guess_mode: bool,
        strength: float,
        scale: float,
        seed: int,
        eta: float,
        low_threshold: float,
        high_threshold: float,
    ) -> list[NDArray[np.uint8]]:
        """`num_samples` new pictures, uint8 [h, w, 3], channels in the order in which the model was trained (RGB).

        input_image: uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]; its shorter side is scaled to image_resolution,
        both sides to multiples of 64. The picture shows `prompt, a_prompt` and not n_prompt, scale says how much.
        strength: of the edges, found by canny between the thresholds (0 to 255 and more); guess_mode: edges lead,
        the prompt may be empty. seed: -1 draws one. eta: 0 is DDIM, 1 adds DDPM's noise.
        Raises TypeError or ValueError with one sentence for bad arguments.
        """
        if not hasattr(self, "model"):
            raise RuntimeError("process() was called before initialize(): call initialize() once first")
        request = Request(
            input_image, prompt, a_prompt, n_prompt, num_samples, image_resolution, ddim_steps, guess_mode, strength,
            scale, drawn(seed), eta, low_threshold, high_threshold,
        )  # fmt: skip
        request.check_precision(torch.finfo(self.precision.dtype).max)
        with self._alone():
            return self._pipeline(request)(request, self.tokenizer)

    @defaults()
    def load_weights(self, checkpoint: str) -> None:
        """Other weights of the same architecture from now on; nothing is built again.

        Recorded graphs stay, but for backend tensorrt, whose engines must have been built with --refit: its pictures
        are recorded again when they are next asked for.
        Raises CheckpointError, TokenizerError, or ValueError where TensorRT refuses, before anything has changed.
        """
        found = find_checkpoint(checkpoint, self.checkpoint.architecture)
        if not hasattr(self, "model"):
            raise RuntimeError("load_weights() was called before initialize(): give the checkpoint to the constructor")
        tokenizer, model = found.load_tokenizer(), found.load_model()
        with self._alone():
            if self.backend.name == "tensorrt":
                self.found = self._refitted(checkpoint, to_precision(model, self.precision.dtype))
                # To be recorded again: nothing says whether a graph sees the weights of a refitted engine.
                self.pipelines.clear()
                torch.cuda.empty_cache()
            self.model.copy_weights(model)
            for pipeline in self.pipelines.values():
                pipeline.refresh()
            self.checkpoint, self.tokenizer = found, tokenizer

    @defaults()
    def timeline(self) -> list[Span]:
        """When each stage of a picture runs, and on which of the two streams: of one more run of the last picture."""
        with self._alone():
            if not self.pipelines:
                raise RuntimeError(
                    "timeline() was called before initialize() or, after load_weights() with TensorRT, before "
                    "process(): call that once first"
                )
            return self._last.timeline()

    @property
    def graph(self) -> str:
        """How the last picture was launched: "one graph of 7017 nodes", or "no graph" and why."""
        with self._alone():
            if not self.pipelines:
                return "no graph: nothing was drawn yet"
            graph = self._last.graph
            return f"one graph of {graph.nodes} nodes" if graph else f"no graph: {self._last.no_graph}"

    @property
    def evaluates(self) -> str:
        """The plan of the last picture, by its number of evaluations."""
        with self._alone():
            if not self.pipelines:
                return "nothing was drawn yet"
            plan = self._last.shape.plan
            return f"{len(plan.evaluated)} of {plan.steps} steps"

    @property
    def _last(self) -> Pipeline:
        return next(reversed(self.pipelines.values()))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One call at a time. Raises RuntimeError in a forked child, where CUDA and locks of the parent do not work."""
        if os.getpid() != self.process_id:
            raise RuntimeError(
                "this hackathon was made in another process, which was forked: make one in each process, or start "
                "processes with multiprocessing's method 'spawn'"
            )
        with self.lock:
            yield

    def _start(self, names: tuple[str, ...], progress: "tqdm[Any]") -> None:
        """Choose among these backends, and draw the first picture."""
        progress.set_description("reading engines")
        size = self._size(256, 384, samples=1)
        self.backend = self._find(size, names, or_fail=len(names) == 1)
        self.found = {size: self.backend}
        log.info("backend: %s on %s", self.backend.name, self.device)
        self._shape_model()
        progress.update()
        progress.set_description("drawing the first picture")
        black = np.zeros((256, 384, 3), np.uint8)
        request = Request(black, "", "", "", 1, 256, self.usual_steps, False, 1.0, 9.0, 0, 0.0, 100, 200)
        try:
            if self.plan == "auto":
                self._choose_plan(request)
            self.process(**vars(request))
        except TensorRTError as error:  # only now is a plan read by TensorRT
            if len(names) == 1 or self.strict:
                raise
            log.warning("backend tensorrt unavailable (%s); trying the next one", str(error))
            self.pipelines.clear()
            self._start(tuple(name for name in names if name != "tensorrt"), progress)

    def _load_model(self) -> None:
        self.tokenizer = self.checkpoint.load_tokenizer()
        self.model: ControlLDM = to_precision(self.checkpoint.load_model().to(self.device), self.precision.dtype)
        self.pipelines.clear()  # those of an earlier call run on the weights of then

    def _refitted(self, name: str, model: ControlLDM) -> dict[Target, Backend]:
        """What was found, TensorRT's engines with the weights of self.model, which will be those of `model`."""
        weights = self.model.state_dict()  # the tensors themselves
        try:
            return {
                size: refitted(backend, size, model, weights) if backend.name == "tensorrt" else backend
                for size, backend in self.found.items()
            }
        except TensorRTError as error:
            raise ValueError(
                f"load_weights() got {name}, and TensorRT's engines hold the weights of {self.checkpoint.name}: "
                f"{error}; or make another hackathon with that checkpoint, or use backend inductor"
            ) from error

    def _shape_model(self) -> None:
        """Give the model the form that is compiled. A recorded graph would not follow, so before any is."""
        if self.backend.name != "inductor":
            return
        channels_last(self.model)
        if self.device.type == "cuda":
            from plugins.layers import use_kernels  # only here: Triton comes with PyTorch for CUDA alone

            use_kernels(self.model)

    def _pipeline(self, request: Request) -> Pipeline:
        """The pipeline of the request's shape: a kept one, or a new one in place of that which was not used longest."""
        shape = Shape(*request.size, request.num_samples, request.ddim_steps, self._plan(request.ddim_steps))
        if shape not in self.pipelines:
            if len(self.pipelines) == PIPELINES:
                self.pipelines.popitem(last=False)
                torch.cuda.empty_cache()
            self.pipelines[shape] = self._make_pipeline(shape, request)
        self.pipelines.move_to_end(shape)
        return self.pipelines[shape]

    def _plan(self, ddim_steps: int) -> Plan:
        """For "auto" what it stands for, or every step where that is for another number of steps."""
        choice = self.plan, ddim_steps
        if choice not in self.plans:
            plan = self.plan
            if self.auto and plan == "auto":
                every = make_plan("all", ddim_steps)
                plan = self.auto.plan if self.auto.plan.steps == every.steps else every
            self.plans[choice] = chosen = choose_plan(plan, ddim_steps, self.checkpoint.architecture)
            if self.plan in ("ten", "auto") and chosen.evaluated == make_plan("all", ddim_steps).evaluated:
                log.warning("plan %s: no such plan for %d steps, evaluating all of them", self.plan, chosen.steps)
        return self.plans[choice]

    def _choose_plan(self, request: Request) -> None:
        """Let "auto" stand for the best of the eligible plans by times of this request."""

        def milliseconds(plan: Plan) -> float:
            pipeline = self._make_pipeline(Shape(*request.size, 1, request.ddim_steps, plan), request)
            return median_ms(lambda: pipeline(request, self.tokenizer), runs=3)

        costs = measure_costs(milliseconds)
        self.auto = best = best_plan(self.eligible, costs, None if self.max_pd else leaderboard_score)
        self.plans.clear()  # "auto" may have stood for another one
        log.info("plan auto: %s, about %.0f ms here, %s", best.path.stem, costs(best.plan), best.distance)

    def _make_pipeline(self, shape: Shape, request: Request) -> Pipeline:
        backend = self._backend(shape.height, shape.width, shape.samples)
        pipeline = Pipeline(self.model, shape, backend.make_engine, self.lanes)
        if self.device.type == "cuda":
            try:
                record(pipeline, request, self.tokenizer)
            except CaptureError as error:
                if self.strict:
                    raise
                pipeline.no_graph = str(error)
                log.warning("no CUDA graph, launching kernels one by one: %s", str(error))
        backend.keep()
        return pipeline

    def _backend(self, height: int, width: int, samples: int) -> Backend:
        """The chosen backend, and no other, whose form the model has; eager where it has no files for this size."""
        size = self._size(height, width, samples)
        if size not in self.found:
            self.found[size] = self._find(size, (self.backend.name,))
        return self.found[size]

    def _find(self, size: Target, names: tuple[str, ...], or_fail: bool = False) -> Backend:
        """The first of the backends that has engine files for pictures of this size; eager where none has them."""
        for name in names:
            target = replace(size, backend=name)
            try:
                if name != "tensorrt":
                    return find_engines(target, self.device)
                loaded = None if self.checkpoint is self.built else self.model.state_dict()
                # The weights are read for their fingerprint only where there are engines to compare it with.
                exists = target.folder.is_dir()
                target = target.of(self.built) if exists else replace(target, checkpoint=self.built.name)
                return find_engines(target, self.device, loaded)
            except (EngineFileError, TensorRTError) as error:
                if or_fail or (self.strict and (target.folder.is_dir() or len(names) == 1)):
                    raise
                which = f"{size.height}x{size.width}, batch {size.samples}"
                log.warning("backend %s unavailable for %s (%s); trying the next one", name, which, str(error))
        return BACKENDS["eager"]

    def _size(self, height: int, width: int, samples: int) -> Target:
        return Target(self.checkpoint.architecture, height, width, samples, self.precision.name)
