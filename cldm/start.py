"""The start: from what the machine has to the first picture."""

from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cldm.model import ControlLDM
from cldm.pipeline import Shape
from cldm.pipeline_cache import Pipelines
from cldm.request import Request
from plans.choice import PlanChoice
from plans.plan import Plan
from runtime.channels_last import channels_last
from runtime.tensorrt_calls import TensorRTError
from runtime.timing import median_ms


def start(pipelines: Pipelines, backends: tuple[str, ...], plan: PlanChoice, progress: "tqdm[Any]") -> None:
    """Choose one of the backends and, for "auto", a plan, and draw a black picture of the contest's size.

    TensorRT reads an engine only when it is first drawn with, so that its refusal leads to the next backend.
    Raises EngineFileError, TensorRTError or CaptureError where nothing is left to choose.
    """
    engines = pipelines.engines
    request = Request.contest(np.zeros((256, 384, 3), np.uint8), prompt="", ddim_steps=plan.usual_steps)
    while True:
        progress.set_description("reading engines")
        engines.choose(backends)
        if engines.backend.name == "inductor":
            _compiled_form(pipelines.model, engines.device)
        progress.update()
        progress.set_description("drawing the first picture")
        try:
            if plan.eligible:
                plan.measure(lambda one: _milliseconds(pipelines, request, one))
            pipelines.draw(request, plan(request.ddim_steps))
            return
        except TensorRTError as error:
            backends = engines.without_tensorrt(backends, error)
            pipelines.clear()


def _milliseconds(pipelines: Pipelines, request: Request, plan: Plan) -> float:
    pipeline = pipelines.make(Shape(*request.size, 1, request.ddim_steps, plan), request)
    return median_ms(lambda: pipeline(request, pipelines.tokenizer), runs=3)


def _compiled_form(model: ControlLDM, device: torch.device) -> None:
    """Give the model the form that is compiled. A recorded graph would not follow, so before any is."""
    channels_last(model)
    if device.type == "cuda":
        from plugins.layers import use_kernels  # only here: Triton comes with PyTorch for CUDA alone

        use_kernels(model)
