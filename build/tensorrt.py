"""Builds TensorRT's engines of a checkpoint: ONNX, plans, each held against its module, then all saved.

Has not run on TensorRT itself yet: what stands in for that proof are `tests/standin` and the real bindings' names.
"""

import tempfile
from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch

from build.compile import CompileOptions, Report, compile_plan
from build.export import export, weight_names
from build.verify import Measurement, Trial, check, prepare
from cldm.checkpoint import Checkpoint
from cldm.engine_files import Target, expected_manifest, pack_plans
from cldm.model import ControlLDM
from cldm.pipeline import to_precision
from runtime.artifacts import save
from runtime.backends import PRECISIONS
from runtime.tensorrt import TensorRTEngine, allocate_scratch
from runtime.tensorrt_refit import check_weights


def build(
    target: Target, checkpoint: Checkpoint, device: torch.device, options: CompileOptions | None = None
) -> tuple[list[Report], list[Measurement]]:
    """Build all plans and save them. Raises TensorRTError, ExportError or BuildError, and then saves nothing."""
    manifest = expected_manifest(target, device)  # of the sources as they are now, not after minutes
    dtype, size = PRECISIONS[target.precision].dtype, (target.height, target.width, target.samples)
    model = checkpoint.load_model()
    options = replace(options or CompileOptions(), refit=bool(target.refit))
    plans, reports = {}, []
    for plan, report in compile_stages(to_precision(deepcopy(model), dtype), size, device, options):
        plans[report.engine] = plan
        reports.append(report)
    trial = prepare(model.to(device), dtype, size, device)
    measurements = [trial.measure(make_engine(trial, name, plan)) for name, plan in plans.items()]
    check(measurements)
    save(target.folder, pack_plans(plans), manifest)
    return reports, measurements


def compile_stages(
    model: ControlLDM,
    size: tuple[int, int, int],
    device: torch.device,
    options: CompileOptions,
    names: Collection[str] | None = None,
) -> Iterator[tuple[bytes, Report]]:
    """The plan and the report of each stage of the model, which is as `export` wants it. names: by default all."""
    with tempfile.TemporaryDirectory() as folder:
        for spec, path in export(model, size, Path(folder), names=names):
            plan, report = compile_plan(path, spec, device, options)
            if options.refit:
                check_weights(TensorRTEngine(spec, plan, device), weight_names(path, model.state_dict().keys()))
            yield plan, report


def make_engine(trial: Trial, name: str, plan: bytes) -> TensorRTEngine:
    """An engine of the trial's stage, ready to be measured."""
    engine = TensorRTEngine(trial.stages[name].spec, plan, trial.device)
    allocate_scratch([[engine]], trial.device)
    return engine
