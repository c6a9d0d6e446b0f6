"""The drop-in class of the TensorRT Hackathon 2023: a picture from canny edges and a prompt."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cldm.checkpoint import find_checkpoint
from cldm.engine_choice import Engines
from cldm.fast import make_fast
from cldm.pipeline import Pipeline
from cldm.pipeline_cache import Pipelines
from cldm.request import Request, drawn
from cldm.start import start
from plans.choice import PlanChoice
from plans.plan import Plan
from runtime.backends import Backend, choose_backends, choose_device, choose_precision
from runtime.call_lock import Turns, defaults
from runtime.cuda import CaptureError
from runtime.graph import Graph
from runtime.streams import Streams
from runtime.tensorrt_calls import TensorRTError
from runtime.timing import Span


class hackathon:
    """`initialize()` once, then `process()` per picture; names and arguments are the contest's.

    checkpoint: a .pth or .safetensors file, "SD15_FOLDER:CONTROLNET_FOLDER" of the diffusers library, or
        "random:SEED"; by default the first that is found (see cldm/checkpoint.py).
    architecture: a file of models/*.yaml, "sd15" or "small"; by default what belongs to the checkpoint.
    backend: "auto", "eager", "inductor" or "tensorrt", whose engine files `python -m build` makes; "auto" takes
        TensorRT's or else inductor's on a GPU if they are there. precision: "auto", "fp32" or "fp16".
    device: "auto", "cpu", "cuda" or "cuda:N".
    plan: "ten", "all", the indices of the steps that call the network, a plan file (see plans/files.py), a Plan, or
        "auto": of the plan files the one with the best leaderboard score by this machine's times, or, given max_pd,
        the quickest whose distance is not above that (see plans/auto.py).
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
        self.checkpoint = self._built = find_checkpoint(checkpoint, architecture)  # TensorRT's files are built from it
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self._backends, self._strict = choose_backends(backend, self.device), strict
        self._plan = PlanChoice(plan, self.checkpoint.architecture, max_pd)
        self._engines = Engines(self.checkpoint, self.precision, self.device, strict)
        self._streams = Streams(self.device)
        self._turns = Turns()
        self._pipelines: Pipelines | None = None

    def initialize(self) -> None:
        """Read the weights, make the pipeline of the contest's shape, on a GPU record it, and run it once.

        Raises ValueError with one sentence if the chosen backend or its engine files cannot be used here.
        """
        with self._turns(), tqdm(total=3, delay=2, leave=False, disable=None) as progress:
            self._pipelines = None  # those of an earlier call run on the weights of then
            progress.set_description("reading weights")
            tokenizer = self.checkpoint.load_tokenizer()
            model = make_fast(self.checkpoint.load_model().to(self.device), self.precision.dtype)
            self._engines.weights = None if self.checkpoint is self._built else model.state_dict()
            pipelines = Pipelines(model, tokenizer, self._engines, self._streams, self._strict)
            progress.update()
            try:
                start(pipelines, self._backends, self._plan, progress)
            except (TensorRTError, CaptureError) as error:
                raise ValueError(str(error)) from error
            self._pipelines = pipelines
            progress.update()

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
        self._initialized("process() was called before initialize(): call initialize() once first")
        request = Request(
            input_image, prompt, a_prompt, n_prompt, num_samples, image_resolution, ddim_steps, guess_mode, strength,
            scale, drawn(seed), eta, low_threshold, high_threshold,
        )  # fmt: skip
        return self.draw(request)

    def draw(self, request: Request, plan: str | Plan | None = None) -> list[NDArray[np.uint8]]:
        """The pictures of a request; plan: another one for them than the runtime's. Raises as `process`."""
        pipelines = self._initialized("draw() was called before initialize(): call initialize() once first")
        request.check_precision(torch.finfo(self.precision.dtype).max)
        with self._turns():
            return pipelines.draw(request, self._plan(request.ddim_steps, plan))

    def load_weights(self, checkpoint: str) -> None:
        """Other weights of the same architecture from now on; nothing is built again.

        Recorded graphs stay, but for backend tensorrt, whose engines must have been built with --refit: its pictures
        are recorded again when they are next asked for.
        Raises CheckpointError, TokenizerError, or ValueError where TensorRT refuses, before anything has changed.
        """
        found = find_checkpoint(checkpoint, self.checkpoint.architecture)
        pipelines = self._initialized(
            "load_weights() was called before initialize(): give the checkpoint to the constructor"
        )
        with defaults():
            tokenizer, model = found.load_tokenizer(), found.load_model()
        with self._turns():
            weights = pipelines.model.state_dict()  # the tensors themselves
            if self.backend.name == "tensorrt":
                self._engines.refit(checkpoint, make_fast(model, self.precision.dtype), weights)
                pipelines.clear()  # nothing says whether a graph sees the weights of a refitted engine
            pipelines.load(model, tokenizer)
            self._engines.weights, self.checkpoint = weights, found

    def timeline(self) -> list[Span]:
        """When each stage of a picture runs, and on which of the two streams: of one more run of the last picture."""
        with self._turns():
            return self._last("timeline()").timeline()

    @property
    def backend(self) -> Backend:
        """What runs the networks; eager until initialize() has looked for engine files."""
        return self._engines.backend

    @property
    def graph(self) -> Graph | None:
        """That which was launched for the last picture; None if there is none."""
        with self._turns():
            return self._last("graph").graph

    @property
    def latent(self) -> Tensor:
        """The last picture's latent after all steps, a copy: float32 [num_samples, 4, h / 8, w / 8], on the device."""
        with self._turns():
            return self._last("latent").buffers["x"].clone()

    @property
    def settings(self) -> dict[str, str]:
        """How the last picture was made, in words."""
        with self._turns():
            said = {"backend": self.backend.name, "precision": self.precision.name, "plan": str(self._plan)}
            return said | self._last("settings").settings

    def _initialized(self, sentence: str) -> Pipelines:
        if self._pipelines is None:
            raise RuntimeError(sentence)
        return self._pipelines

    def _last(self, name: str) -> Pipeline:
        last = self._pipelines.last if self._pipelines else None
        if last is None:
            raise RuntimeError(
                f"{name} was asked for before initialize() or, after load_weights() with TensorRT, before process(): "
                "call that once first"
            )
        return last
