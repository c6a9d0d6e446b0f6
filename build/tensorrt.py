"""Builds TensorRT's engines of a checkpoint: ONNX, plans, each held against its module, then all saved.

Has not run on TensorRT itself yet: what stands in for that proof are `tests/standin` and the real bindings' names.
"""

import tempfile
from copy import deepcopy
from pathlib import Path

import torch

from build.compile import CompileOptions, Report, compile_plan
from build.export import export
from build.verify import Measurement, check, prepare
from cldm.checkpoint import Checkpoint
from cldm.engine_files import Target, expected_manifest, pack_plans
from cldm.pipeline import to_precision
from runtime.artifacts import save
from runtime.backends import PRECISIONS
from runtime.tensorrt import TensorRTEngine, allocate_scratch


def build(
    target: Target, checkpoint: Checkpoint, device: torch.device, options: CompileOptions | None = None
) -> tuple[list[Report], list[Measurement]]:
    """Build all plans and save them. Raises TensorRTError, ExportError or BuildError, and then saves nothing."""
    manifest = expected_manifest(target, device)  # of the sources as they are now, not after minutes
    dtype, size = PRECISIONS[target.precision].dtype, (target.height, target.width, target.samples)
    model = checkpoint.load_model()
    plans, reports = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for spec, path in export(to_precision(deepcopy(model), dtype), size, Path(folder)):
            plans[spec.name], report = compile_plan(path, spec, device, options)
            reports.append(report)
    trial = prepare(model.to(device), dtype, size, device)
    measurements = []
    for name, plan in plans.items():
        engine = TensorRTEngine(trial.stages[name].spec, plan, device)
        allocate_scratch([[engine]], device)
        measurements.append(trial.measure(engine))
    check(measurements)
    save(target.folder, pack_plans(plans), manifest)
    return reports, measurements
