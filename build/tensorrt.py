"""Builds TensorRT's engines of a checkpoint: ONNX, plans, each held against its module, then all saved.

Has not run on TensorRT itself yet: what stands in for that proof are `tests/standin` and the real bindings' names.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm import tqdm

from build.compile import CompileOptions, Report, compile_plan
from build.export import export, weight_names
from build.verify import BuildError, Measurement, Trial, check, prepare
from cldm.checkpoint import Checkpoint
from cldm.engine_files import Target, expected_manifest, pack_plans
from cldm.model import ControlLDM
from cldm.pipeline import to_precision
from plugins.group_norm.tensorrt_plugin import register, try_compiler
from runtime.artifacts import save
from runtime.backends import PRECISIONS
from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine, allocate_scratch
from runtime.tensorrt_refit import check_weights

log = logging.getLogger(__name__)

TIMES = "tensorrt.timing"  # beside the engines, for all of them


def build(
    target: Target, checkpoint: Checkpoint, device: torch.device, options: CompileOptions | None = None
) -> tuple[list[Report], list[Measurement]]:
    """Build all plans and save them, with plugins unless the target says without.

    Raises TensorRTError, ExportError or BuildError, and then saves nothing.
    """
    target = replace(target, plugins=target.plugins is not False, refit=bool(target.refit))
    manifest = expected_manifest(target, device)  # of the sources as they are now, not after minutes
    options = replace(options or CompileOptions(timing_cache=target.folder.parent / TIMES), refit=bool(target.refit))
    dtype, size = PRECISIONS[target.precision].dtype, (target.height, target.width, target.samples)
    plugins = bool(target.plugins) and dtype == torch.float16
    if plugins:
        register_plugin(device)  # the parser looks for it
    model = checkpoint.load_model()
    plans, reports = {}, []
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        converted = to_precision(deepcopy(model), dtype)
        for path, plan, report in compile_stages(converted, size, device, options, Path(folder), plugins):
            plans[report.engine], files[report.engine] = plan, path
            reports.append(report)
        trial = prepare(model.to(device), dtype, size, device)
        measurements = []
        for name, plan in tqdm(plans.items(), desc="checking", unit="stage"):
            engine = make_engine(trial, name, plan)
            measurement = trial.measure(engine)
            measurements.append(replace(measurement, onnx_error=_onnx_error(trial, engine.spec, files[name])))
    check(measurements)
    save(target.folder, pack_plans(plans), manifest)
    return reports, measurements


def compile_stages(
    model: ControlLDM,
    size: tuple[int, int, int],
    device: torch.device,
    options: CompileOptions,
    folder: Path,
    plugins: bool,
    names: Collection[str] | None = None,
) -> Iterator[tuple[Path, bytes, Report]]:
    """ONNX file, plan and report of each stage of the model, which is as `export` wants it. names: by default all."""
    for spec, path in export(model, size, folder, plugins=plugins, names=names):
        plan, report = compile_plan(path, spec, device, options)
        if options.refit:
            check_weights(TensorRTEngine(spec, plan, device), weight_names(path, model.state_dict().keys()))
        yield path, plan, report


def make_engine(trial: Trial, name: str, plan: bytes) -> TensorRTEngine:
    """An engine of the trial's stage, ready to be measured."""
    engine = TensorRTEngine(trial.stages[name].spec, plan, trial.device)
    allocate_scratch([[engine]], trial.device)
    return engine


def register_plugin(device: torch.device) -> None:
    """Make GroupNorm's plugin known to TensorRT, for this GPU. Raises BuildError with the reason."""
    major, minor = torch.cuda.get_device_capability(device)
    try:
        try_compiler(10 * major + minor)
        register(10 * major + minor)
    except Exception as error:  # whatever TensorRT's registry raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BuildError(
            f"the plugin for GroupNorm cannot be registered ({reason}): build with --no-plugins"
        ) from error


def _onnx_error(trial: Trial, spec: EngineSpec, path: Path) -> float | None:
    """Of the file by itself, to tell its errors from TensorRT's. None where onnxruntime cannot run it."""
    if find_spec("onnxruntime") is None:
        return None
    from build.onnx_engine import OnnxEngine

    try:
        return trial.error(OnnxEngine(spec, path))
    except Exception as error:  # an older onnxruntime may lack operators; the engine is judged without it
        log.info("onnxruntime does not run stage %s (%s)", spec.name, " ".join(str(error).split()))
        return None
