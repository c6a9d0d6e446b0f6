"""State of one `python -m build --check` run: the target, the model and the results that later checks need."""

import tempfile
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from build.compile import Builder
from build.layers import Report
from build.tensorrt import build_stages, prepare_trial
from build.verify import Trial
from cldm.checkpoint import Checkpoint
from cldm.engine_files import Target
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.pipeline import Pipeline, Shape
from cldm.request import Request
from cldm.stages import STAGES, Size
from cldm.tensorrt_engines import TensorRTEngines
from ldm.tokenizer import Tokenizer
from plans.plan import make_plan
from runtime.backends import PRECISIONS
from runtime.graph import Graph
from runtime.streams import Streams
from runtime.tensorrt_library import sm


class NotTried(Exception):
    """A check cannot run; the message states the reason."""


class NeedsGPU(NotTried):
    """A check needs a GPU that this machine does not have."""


class Wrong(Exception):
    """A check failed; the message has its figures and may state what was expected."""


@dataclass
class Case:
    """The state shared by the checks. Engines stay in memory; engine files are neither read nor written."""

    target: Target
    checkpoint: Checkpoint
    builder: Builder
    engines: dict[str, bytes] = field(default_factory=dict)  # serialized, by stage
    reports: dict[str, Report] = field(default_factory=dict)
    plugins: bool = False  # whether the GroupNorm plugin is registered

    @property
    def device(self) -> torch.device:
        return self.builder.device

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.target.precision].dtype

    @property
    def size(self) -> Size:
        return self.target.size

    @cached_property
    def model(self) -> ControlLDM:
        """The model on the device. It is float32 until `trial` or `pipeline` converts it in place."""
        return self.checkpoint.load_model(self.device)

    @cached_property
    def exported(self) -> ControlLDM:
        return make_fast(deepcopy(self.model).cpu(), self.dtype)

    @cached_property
    def trial(self) -> Trial:
        return prepare_trial(self.model, self.dtype, self.size, self.device)

    @cached_property
    def folder(self) -> "tempfile.TemporaryDirectory[str]":
        """A temporary folder for the ONNX files; it is deleted when the case is garbage-collected."""
        return tempfile.TemporaryDirectory()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.load_tokenizer()

    @cached_property
    def requests(self) -> dict[str, Request]:
        return make_requests(self.target.height, self.target.width, self.target.samples)

    @cached_property
    def pipeline(self) -> Pipeline:
        if missing := [name for name in STAGES if name not in self.engines]:
            raise NotTried(f"no engine was built for {', '.join(missing)}")
        target = self.target
        shape = Shape(target.height, target.width, target.samples, 20, make_plan("ten", 20), target.syntax)
        engines = TensorRTEngines(self.engines, self.device)
        return Pipeline(make_fast(self.model, self.dtype), shape, engines, Streams(self.device))

    @property
    def graph(self) -> Graph:
        self.need_gpu()
        if self.pipeline.graph is None:
            raise NotTried("no graph was captured")
        return self.pipeline.graph

    def onnx(self, stage: str) -> Path:
        return Path(self.folder.name) / f"{stage}.onnx"

    def build(self, model: ControlLDM, stage: str, builder: Builder) -> tuple[bytes, Report]:
        ((_, serialized, report),) = build_stages(
            builder, model, self.size, Path(self.folder.name), self.plugins, [stage]
        )
        return serialized, report

    def need_cuda(self) -> None:
        if self.device.type != "cuda":
            raise NeedsGPU(f"needs a CUDA device, got {self.device}")

    def need_gpu(self) -> None:
        """Raise NeedsGPU unless this machine has a GPU that can run the engines."""
        if not self.builder.runs:
            raise NeedsGPU(f"needs a GPU of {' or '.join(map(sm, self.builder.targets))}, found none")

    def need_engine(self, stage: str) -> None:
        if stage not in self.engines:
            raise NotTried("no engine was built")

    def listed(self, stage: str) -> Report:
        """Return the report of a stage's engine. Raise NotTried if there is no engine or its layers are unknown."""
        self.need_engine(stage)
        if not self.reports[stage].layers:
            raise NotTried("the engine's layers are unknown")
        return self.reports[stage]


def make_requests(height: int, width: int, samples: int) -> dict[str, Request]:
    """Return requests of one shape: "first", and others that are named by how they differ from it."""

    def picture(seed: int) -> Any:
        fields = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        return fields.repeat(16, axis=0).repeat(16, axis=1)

    first = Request.contest(picture(0), num_samples=samples, image_resolution=min(height, width), seed=1)
    changes: dict[str, dict[str, Any]] = {
        "first": {},
        "other picture": {"input_image": picture(1)},
        "other prompt": {"prompt": "a red flower"},
        "other seed": {"seed": 2},
        "other scale": {"scale": 4.5},
        "other strength": {"strength": 0.5},
        "guess mode": {"guess_mode": True},
        "noise of eta": {"eta": 0.5},
    }
    return {name: replace(first, **change) for name, change in changes.items()}
