"""The drop-in class for the TensorRT Hackathon 2023, which generates pictures from Canny edges and a prompt."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cldm.checkpoint import Checkpoint
from cldm.checkpoint_choice import find_checkpoint
from cldm.engine_choice import Engines
from cldm.loaded_weights import LoadedWeights
from cldm.pipeline import Pipeline
from cldm.pipeline_cache import Pipelines
from cldm.progress import Progress
from cldm.prompt_syntax import PromptSyntax
from cldm.request import Request, check_request, check_requests, drawn
from cldm.start import start
from plans.choice import PlanChoice
from plans.plan import Plan
from reading import path_text
from runtime.backends import (
    Backend,
    check_switch,
    choose_backends,
    choose_device,
    choose_precision,
    leave_out_tensorrt,
    with_precision,
)
from runtime.call_lock import Turns
from runtime.cuda import CaptureError
from runtime.device_errors import in_one_sentence
from runtime.graph import Graph
from runtime.streams import Streams
from runtime.tensorrt_calls import TensorRTError
from runtime.timing import Span
from weights.loras import check_loras


class hackathon:
    """Call `initialize()` once, then `process()` for each request. The contest defines these names and arguments.

    checkpoint: "BASE", "BASE:CONTROL" or "random:SEED", where BASE and CONTROL are files or folders of weights; by
        default the first checkpoint found (see `find_checkpoint` in cldm/checkpoint_choice.py).
    architecture: the name of a file in models/*.yaml, "sd15" or "small"; by default the one that fits the checkpoint.
    backend: "auto", "eager", "inductor" or "tensorrt"; the last two need engine files, built by `python -m build`.
        On a GPU, "auto" uses tensorrt if its engine files exist, else inductor if its engine files exist, else eager.
    precision: "auto" (fp16 on a GPU, fp32 on the CPU), "fp32", "fp16" or "fp8": 3x3 convolutions with numbers of 8
        bits, faster on an H100 or H200, but pictures change (docs/performance.md). A CPU rounds to the same numbers.
    device: "auto" (the GPU if there is one), "cpu", "cuda" or "cuda:N".
    plan: "ten", "all", the indices of the steps that call the network, such as "19,14,9,4", a plan file (see
        plans/files.py), a Plan, or "auto": the plan file with the best leaderboard score at this machine's speed or,
        if max_pd is given, the fastest one whose mean distance is at most max_pd (see plans/auto.py).
    strict: raise instead of warning and falling back if capture into a CUDA graph fails, if TensorRT rejects an engine,
        or if engine files are damaged, of another version, or missing for a picture's size. "auto" still skips
        backends that have no engine files for the contest's size.
    vae: a file or folder with another VAE.
    loras: (file, strength) pairs, merged into the weights.
    embeddings: files of textual-inversion embeddings; the name of each, without suffix, is a word for prompts.
    prompt_syntax: "plain" or "webui" (see docs/prompts.md). prompt_chunks: for "webui", the number of chunks of 75
        tokens per prompt, 1 to 8; shorter prompts are padded, and the end of longer ones is dropped, with a warning.

    docs/weights.md lists the files that checkpoint, vae, loras and embeddings accept.

    Raises ValueError for unknown options, and for options that this machine does not support.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        *,
        architecture: str | None = None,
        backend: str = "auto",
        plan: str | int | Plan = "ten",
        max_pd: float | None = None,
        precision: str = "auto",
        device: str = "auto",
        strict: bool = False,
        vae: str | None = None,
        loras: Sequence[tuple[str, float]] = (),
        embeddings: Sequence[str] = (),
        prompt_syntax: str = "plain",
        prompt_chunks: int = 1,
    ) -> None:
        found = find_checkpoint(checkpoint, architecture, vae, loras, embeddings)
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self._backends = with_precision(choose_backends(backend, self.device), self.precision, self.device)
        self._strict = check_switch("strict", strict)
        if embeddings:
            self._backends = leave_out_tensorrt(self._backends, "embeddings add tokens, which its engines do not have")
        self._weights = LoadedWeights(found, self.precision, self.device)
        self._plan = PlanChoice(plan, found.architecture, max_pd, found.name)
        self.syntax = PromptSyntax(prompt_syntax, prompt_chunks)
        self._engines = Engines(self._weights.built, self.precision, self.device, strict, self.syntax)
        self._streams = Streams(self.device)
        self._turns = Turns(self.device)
        self._pipelines: Pipelines | None = None

    @in_one_sentence
    def initialize(self) -> None:
        """Load the weights, create the pipeline for the contest's picture size, capture it on a GPU, and run it once.

        On a CPU without engine files, the pipeline is one for 64x64 pixels, to start sooner. For plan "auto", also
        measure the plans and choose one. A second call starts over.
        Raises ValueError if the weights, the backend or its engine files cannot be used here, if the first picture is
        not finite, or, with strict, if capture fails; torch.OutOfMemoryError; CudaError if the device fails or replay
        of the graph differs from eager execution.
        """
        with self._turns(), Progress(total=3, delay=2, leave=False, disable=None) as progress:
            self._pipelines = None  # free the pipelines and weights of an earlier call
            self._engines.begin(self._backends)
            progress.set_description("loading weights")
            tokenizer = self.checkpoint.checked_tokenizer()
            model = self._weights.load(self._engines)
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
        input_image: NDArray[np.uint8] | None,
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
        low_threshold: float | None,
        high_threshold: float | None,
        *,
        edges: NDArray[np.uint8] | None = None,
    ) -> list[NDArray[np.uint8]]:
        """Return a list of `num_samples` pictures, uint8 [h, w, 3], in the channel order of the training data (RGB).

        input_image: uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] (put over white); its shorter side is scaled to
            image_resolution (64 to 4096), then both sides are rounded to multiples of 64. At most 2**26 pixels. May be
            None if edges is given.
        prompt, a_prompt: joined into one prompt; n_prompt: the negative prompt; at most 10,000 characters each.
        num_samples: at most 1024, and 4096 x 4096 pixels together. scale: the guidance scale.
        low_threshold, high_threshold: of the Canny edges, usually 0 to 255, in either order; both None: input_image is
            an edge map, as edges would be. strength: the influence of the edges; a negative one
            subtracts ControlNet's residuals.
        edges: an edge map to use instead of Canny's; the thresholds are then ignored. uint8 [h, w], [h, w, 1] or
            [h, w, 3] with equal channels; white edges on black, grey ones too; resized to the picture's size.
        guess_mode: the edges dominate, and the prompt may be empty.
        seed: -1 picks a random one. eta: 0 is DDIM, 1 adds DDPM's noise.
        Raises TypeError or ValueError for bad arguments, ValueError if the picture is not finite,
        torch.OutOfMemoryError if it needs more memory than there is, and CudaError if the device fails.
        """
        self._started("process() was called before initialize(): call initialize() once first")
        request = Request(
            input_image, prompt, a_prompt, n_prompt, num_samples, image_resolution, ddim_steps, guess_mode, strength,
            scale, drawn(seed), eta, low_threshold, high_threshold, edges,
        )  # fmt: skip
        return self.draw(request)

    @in_one_sentence
    def draw(self, request: Request, plan: str | int | Plan | None = None) -> list[NDArray[np.uint8]]:
        """Return the pictures of a request. plan: used instead of the runtime's plan. Raises like `process`."""
        check_request(request)
        request.check_precision(torch.finfo(self.precision.dtype).max)
        with self._turns():
            pipelines = self._initialized("draw() was called before initialize(): call initialize() once first")
            return pipelines.draw([request], self._plan(request.ddim_steps, plan))

    @in_one_sentence
    def process_many(
        self, requests: Sequence[Request], plan: str | int | Plan | None = None
    ) -> list[list[NDArray[np.uint8]]]:
        """Return the pictures of each request. Several requests share one graph, in batches of 1, 2, 4 or 8 pictures.

        requests: of one picture size and ddim_steps; everything else may differ. A batch is filled up with pictures
            that are thrown away. Engines round differently for another batch size, so that a picture may differ from
            the same request's alone, by up to two grey levels on an H100. With engine files, only batches that have
            some are used: `python -m build --samples 4`.
        plan: used instead of the runtime's plan. Raises like `process`; if one picture is not finite, none is returned.
        """
        checked = check_requests(requests)
        for request in checked:
            request.check_precision(torch.finfo(self.precision.dtype).max)
        with self._turns():
            pipelines = self._initialized("process_many() was called before initialize(): call initialize() once first")
            return pipelines.draw_many(checked, self._plan(checked[0].ddim_steps, plan)) if checked else []

    @in_one_sentence
    def load_weights(self, checkpoint: str, *, vae: str | None = None, loras: Sequence[tuple[str, float]] = ()) -> None:
        """Replace the weights by those of another checkpoint of the same architecture; nothing is built again.

        Captured graphs stay, except with TensorRT: its engines must have been built with --refit, and each graph is
        captured again when it is needed.
        Raises CheckpointError, TokenizerError, or ValueError if TensorRT refuses, before anything has changed.
        """
        name = path_text("checkpoint", checkpoint)  # None would be the default
        found = find_checkpoint(name, self.checkpoint.architecture, vae, loras, self.checkpoint.embeddings)
        sentence = "load_weights() was called before initialize(): pass the checkpoint to the constructor"
        self._started(sentence)
        self._weights.replace(found, lambda: self._initialized(sentence), self._engines, self._turns)

    @in_one_sentence
    def set_loras(self, loras: Sequence[tuple[str, float]]) -> None:
        """Replace the LoRAs that are merged into the weights, (file, strength) each, in place under captured graphs.

        An empty list restores the checkpoint's weights bit for bit. TensorRT: as for load_weights.
        The first call reads the checkpoint again and keeps its weights in host memory.
        Raises CheckpointError, TypeError or ValueError before anything has changed.
        """
        checked = check_loras(loras)
        with self._turns():
            pipelines = self._initialized(
                "set_loras() was called before initialize(): pass the LoRAs to the constructor"
            )
            self._weights.set_loras(checked, pipelines, self._engines)

    @in_one_sentence
    def timeline(self) -> list[Span]:
        """Generate the last picture again, and return each run of a stage with its stream and times, in queued order.

        Raises RuntimeError if no picture has been generated yet.
        """
        with self._turns():
            return self._last("timeline()").timeline()

    @property
    def checkpoint(self) -> Checkpoint:
        """The weights in use, with their LoRAs, VAE and embeddings."""
        return self._weights.checkpoint

    @property
    def backend(self) -> Backend:
        """The chosen backend; eager until initialize() has chosen. Sizes without its engine files run eagerly."""
        return self._engines.backend

    @property
    def graph(self) -> Graph | None:
        """The CUDA graph that generated the last picture, or None if it was generated without a graph."""
        with self._turns():
            return self._last("graph").graph

    @property
    @in_one_sentence
    def latent(self) -> Tensor:
        """A copy of the last request's latents after all steps, on the device: float32 [num_samples, 4, h/8, w/8]."""
        with self._turns():
            return self._last("latent").buffers["x"].clone()

    @property
    def settings(self) -> dict[str, str]:
        """How the last picture was generated: backend, precision, plan, evaluations and graph."""
        with self._turns():
            last = self._last("settings")
            plan = self._plan.name_of(last.shape.plan, last.shape.ddim_steps)
            return {"precision": self.precision.name, "plan": plan, **last.settings}

    def _started(self, sentence: str) -> Pipelines:
        if self._pipelines is None:
            raise RuntimeError(sentence)
        return self._pipelines

    def _initialized(self, sentence: str) -> Pipelines:
        """Return the pipelines, inside a turn: another thread may replace them or their weights before it."""
        pipelines = self._started(sentence)
        if self._weights.mixed:
            raise RuntimeError(
                "load_weights() or set_loras() was interrupted, so that the weights are a mix of old and new: call "
                "initialize() again"
            )
        return pipelines

    def _last(self, name: str) -> Pipeline:
        sentence = (
            f"{name} needs a generated picture: call initialize() once first, or process() after load_weights() with "
            "TensorRT"
        )
        last = self._initialized(sentence).last
        if last is None:
            raise RuntimeError(sentence)
        return last
