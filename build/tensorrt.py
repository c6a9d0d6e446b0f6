"""Builds the TensorRT engines of a checkpoint: exports the stages to ONNX, builds, checks the errors, and saves.

Engines for this machine's GPU are run and compared with the modules in higher precision. Engines for other GPUs cannot
run here: onnxruntime runs their ONNX files instead. That does not test TensorRT's own arithmetic; `python -m build
--check` on the target machine does.
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

from build.builder import register_plugin
from build.compile import Builder, compile_engine
from build.errors import BuildError
from build.export import check_exporter, export, weight_names
from build.layers import Report
from build.measurement import Measurement, check
from build.verify import Trial, prepare
from cldm.checkpoint import Checkpoint
from cldm.engine_files import Target, expected_manifest
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.stages import Size
from runtime.artifacts import read_manifest, save_stages
from runtime.backends import PRECISIONS
from runtime.scratch import allocate_scratch
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_calls import TensorRTError
from runtime.tensorrt_library import sm
from runtime.tensorrt_refit import check_weights

log = logging.getLogger(__name__)


def build(
    target: Target, checkpoint: Checkpoint, builder: Builder, strict: bool = False
) -> tuple[list[Report], list[Measurement]]:
    """Build all engines and save them. Return the reports of all engines, and the measurements of those that could run.

    target: as returned by `settle_plugins`. If the build with plugins fails, log why and build without plugins; with
    `strict`, raise the error instead.
    If a stage fails, save nothing and raise TensorRTError or BuildError (ExportError is one). Raise OSError if saving
    fails.
    """
    check_exporter(builder.library.extra)
    _warn_of_replaced(target.folder, builder)
    target = replace(target, plugins=bool(target.plugins), refit=bool(target.refit))
    try:
        return _build(target, checkpoint, builder)
    except (TensorRTError, BuildError) as error:
        if strict or not target.plugins:
            raise
        log.warning("building without plugins, because the build with plugins failed: %s", str(error))
    return _build(replace(target, plugins=False), checkpoint, builder)


def build_stages(
    builder: Builder,
    model: ControlLDM,
    size: Size,
    folder: Path,
    plugins: bool = False,
    names: Collection[str] | None = None,
) -> Iterator[tuple[Path, bytes, Report]]:
    """Build the stages; yield ONNX file, serialized engine and report of each.

    model to names: as for `export`. Raise TensorRTError if a build fails or, with `builder.refit`, if an engine cannot
    refit all weights that come from the checkpoint.
    """
    for spec, path in export(model, size, folder, plugins, names):
        serialized, report = compile_engine(path, spec, builder)
        if builder.refit:
            engine = TensorRTEngine(spec, serialized, builder.device)
            check_weights(engine, weight_names(path, model.state_dict().keys()))
        yield path, serialized, report


def prepare_trial(model: ControlLDM, dtype: torch.dtype, size: Size, device: torch.device) -> Trial:
    """Return a trial of the model, converted in place. On the CPU, half-precision modules are slow and not run."""
    return prepare(model.to(device), dtype, size, device, eager=dtype != torch.float16 or device.type != "cpu")


def make_engine(trial: Trial, name: str, serialized: bytes) -> TensorRTEngine:
    """Return the engine of a stage of the trial, with scratch memory, ready to be measured."""
    engine = TensorRTEngine(trial.stages[name].spec, serialized, trial.device)
    allocate_scratch([[engine]], trial.device)
    return engine


def _warn_of_replaced(folder: Path, builder: Builder) -> None:
    """Warn if the build will replace engines for other GPUs: the engines for all GPUs share one folder."""
    try:
        capabilities = read_manifest(folder)["capability"]
        there = {int(capability.replace(".", "")) for capability in capabilities}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # no usable engines
    if not builder.targets or there <= {*builder.targets}:
        return
    every = sorted({*there, *builder.targets})
    old, new = (" and ".join(map(sm, some)) for some in (sorted(there), builder.targets))
    hint = f"; to build for all, use --target {' '.join(map(sm, every))}" if builder.library.is_for(every) else ""
    log.warning("replacing the engines for %s in %s with engines for %s%s", old, folder, new, hint)


def _build(target: Target, checkpoint: Checkpoint, builder: Builder) -> tuple[list[Report], list[Measurement]]:
    # Before the build, because the sources may change meanwhile.
    manifest = expected_manifest(target, builder.device, library=builder.library)
    plugins = bool(target.plugins) and target.precision == "fp16"
    if plugins:
        register_plugin(builder)  # before the parser looks it up
    dtype, size = PRECISIONS[target.precision].dtype, target.size
    model = checkpoint.load_model(torch.device("cpu"))
    files, engines, reports = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        converted = make_fast(deepcopy(model), dtype)
        for path, serialized, report in build_stages(builder, converted, size, Path(folder), plugins):
            files[report.engine], engines[report.engine] = path, serialized
            reports.append(report)
        trial = prepare_trial(model, dtype, size, builder.device)
        measured = [_measure(trial, name, builder, engines[name], files[name]) for name in tqdm(engines, "checking")]
    measurements = [one for one in measured if one]
    check(measurements)
    if not builder.runs:
        where = " or ".join(map(sm, builder.targets))
        errors = "the errors are those of the ONNX files in onnxruntime" if measurements else "nothing was compared"
        log.warning("the engines were not run, %s; run python -m build --check on a machine with %s", errors, where)
    save_stages(target.folder, engines, manifest)
    return reports, measurements


def _measure(trial: Trial, name: str, builder: Builder, serialized: bytes, path: Path) -> Measurement | None:
    """Measure the ONNX file and, if it can run here, the engine, to separate the file's errors from TensorRT's.

    Return None if neither could run.
    """
    by_onnx = _measure_onnx(trial, name, path)
    if not builder.runs:
        return by_onnx
    measurement = trial.measure(make_engine(trial, name, serialized))
    return replace(measurement, onnx_error=by_onnx.onnx_error if by_onnx else None)


def _measure_onnx(trial: Trial, name: str, path: Path) -> Measurement | None:
    """Measure the ONNX file. Return None if onnxruntime is not installed or cannot run the file."""
    if find_spec("onnxruntime") is None:
        log.warning("stage %s is not compared in onnxruntime, which is not installed: run ./preprocess.sh dev", name)
        return None
    from build.onnx_engine import OnnxEngine

    try:
        measurement = trial.measure(OnnxEngine(trial.stages[name].spec, path), timed=False)
        return replace(measurement, error=None, onnx_error=measurement.error)
    except Exception as error:  # an older onnxruntime may lack operators; the build goes on without it
        log.warning("onnxruntime cannot run stage %s (%s)", name, " ".join(str(error).split()))
        return None
