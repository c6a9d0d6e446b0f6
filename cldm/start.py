"""Startup: chooses backend and plan, and generates the first picture."""

from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cldm.model import ControlLDM
from cldm.pipeline_cache import Pipelines
from cldm.request import Request
from plans.choice import PlanChoice
from plans.plan import Plan
from runtime.channels_last import channels_last
from runtime.tensorrt_calls import TensorRTError
from runtime.timing import median_ms


def start(pipelines: Pipelines, backends: tuple[str, ...], plan: PlanChoice, progress: "tqdm[Any]") -> None:
    """Choose a backend and, for "auto", a plan, and generate a picture from a black input of the contest's size.

    TensorRT loads an engine when a pipeline is created; if it refuses one, the next backend is tried.
    Raises EngineFileError or TensorRTError if no backend can be used, and CaptureError if capture fails with strict.
    """
    engines = pipelines.engines
    request = Request.contest(np.zeros((256, 384, 3), np.uint8), prompt="", ddim_steps=plan.usual_steps)
    while True:
        progress.set_description("loading engines")
        engines.choose(backends)
        if engines.backend.name == "inductor":
            _compiled_form(pipelines.model, engines.device)
        progress.update()
        progress.set_description("generating the first picture")
        try:
            if plan.eligible:
                plan.measure(lambda one: _milliseconds(pipelines, request, one))
            pipelines.draw(request, plan(request.ddim_steps))
            return
        except TensorRTError as error:
            backends = engines.without_tensorrt(backends, error)
            pipelines.clear()


def _milliseconds(pipelines: Pipelines, request: Request, plan: Plan) -> float:
    pipeline = pipelines.make(pipelines.shape(request, plan), request)
    return median_ms(lambda: pipeline(request, pipelines.tokenizer), runs=3)


def _compiled_form(model: ControlLDM, device: torch.device) -> None:
    """Convert the model in place to the form that is compiled. Must come before capture: graphs would not follow."""
    channels_last(model)
    if device.type == "cuda":
        from plugins.layers import use_kernels  # imported here: Triton comes only with PyTorch for CUDA

        use_kernels(model)
