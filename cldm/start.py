"""Starts a runtime: chooses backend and plan, and generates the first picture, on a CPU a cheap one."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from cldm.model import ControlLDM
from cldm.pipeline import Watch
from cldm.pipeline_cache import Pipelines
from cldm.progress import Progress
from cldm.request import Request
from plans.choice import PlanChoice
from plans.plan import Plan
from plugins.layers import use_kernels
from runtime.channels_last import channels_last
from runtime.tensorrt_calls import TensorRTError
from runtime.timing import median_ms


def start(pipelines: Pipelines, backends: tuple[str, ...], plan: PlanChoice, progress: Progress) -> None:
    """Choose a backend and, for plan "auto", a plan; then generate a picture from a black input of the contest's size.

    On a CPU, where a picture can take minutes, the first picture has one evaluation, and without engine files 64x64
    pixels: enough to run every stage.
    TensorRT loads its engines when a pipeline is created; if it rejects one, the next backend in `backends` is tried.
    Raises EngineFileError or TensorRTError if the only backend cannot be used or, with strict, if existing engine files
    cannot be used; CaptureError, with strict, if capture fails.
    """
    engines = pipelines.engines
    request = Request.contest(np.zeros((256, 384, 3), np.uint8), prompt="", ddim_steps=plan.usual_steps)
    while True:
        progress.set_description("loading engines")
        engines.choose(backends)
        if engines.backend.name == "inductor":
            _compiled_form(pipelines.model, engines.device)
        progress.update()
        try:
            if plan.eligible:
                plan.measure(partial(_milliseconds, pipelines, request, _shown(progress, "measuring plans")))
            first, asked = plan(request.ddim_steps), request
            if engines.device.type == "cpu":
                first = Plan(first.steps, first.evaluated[:1])
                if engines.backend.name == "eager":
                    asked = replace(request, image_resolution=64, input_image=np.zeros((64, 64, 3), np.uint8))
            pipelines.draw([asked], first, _shown(progress, "generating the first picture"))
            return
        except TensorRTError as error:
            backends = engines.without_tensorrt(backends, error)
            pipelines.clear()


def _shown(progress: Progress, work: str) -> Watch:
    """Show the work, and return a function that shows each of its stages too."""
    progress.set_description(work)
    return lambda stage: progress.set_description(f"{work}: {stage}")


def _milliseconds(pipelines: Pipelines, request: Request, watch: Watch, plan: Plan) -> float:
    pipeline = pipelines.make(pipelines.shape([request], plan), [request])
    return median_ms(lambda: pipeline([request], pipelines.tokenizer, watch), runs=3)


def _compiled_form(model: ControlLDM, device: torch.device) -> None:
    """Convert the model in place to the form that Inductor compiles.

    Call it before capture: a graph captured earlier would use the old weights' memory.
    """
    channels_last(model)
    if device.type == "cuda":
        use_kernels(model)
