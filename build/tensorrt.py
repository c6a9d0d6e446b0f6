"""Builds TensorRT's engines of a checkpoint: ONNX, plans, each held against its module, then all saved.

Plans for the GPU that is here are run and compared with float32. Plans for other GPUs cannot be: there onnxruntime runs
the ONNX files in their place, which leaves TensorRT's own arithmetic to `python -m build --check` on the other machine.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm import tqdm

from build.compile import CompileOptions, compile_plan
from build.errors import BuildError
from build.export import export, weight_names
from build.layers import Report
from build.verify import Measurement, Trial, check, prepare
from cldm.checkpoint import Checkpoint
from cldm.engine_files import Target, expected_manifest
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.tensorrt_engines import pack_engines
from plugins.group_norm.tensorrt_plugin import register, try_compiler
from runtime.artifacts import save
from runtime.backends import PRECISIONS
from runtime.scratch import allocate_scratch
from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_calls import TensorRTError
from runtime.tensorrt_library import Library, capability, library_that_builds, sm
from runtime.tensorrt_refit import check_weights

log = logging.getLogger(__name__)

TIMES = "tensorrt.timing"  # beside the engines, for all of them


@dataclass(frozen=True)
class Builder:
    """What builds plans, for which GPUs, and where they are measured."""

    library: Library
    device: torch.device  # the GPU whose kernels are measured; the CPU where a portable library builds for others
    options: CompileOptions

    @property
    def runs(self) -> bool:
        """Can this machine run the plans?"""
        if self.device.type != "cuda":
            return False
        return not self.options.targets or capability(self.device) in self.options.targets

    def stages(
        self,
        model: ControlLDM,
        size: tuple[int, int, int],
        folder: Path,
        plugins: bool = False,
        names: Collection[str] | None = None,
    ) -> Iterator[tuple[Path, bytes, Report]]:
        """ONNX file, plan and report of each stage; model, plugins and names as `export` takes them."""
        for spec, path in export(model, size, folder, plugins, names):
            plan, report = compile_plan(path, spec, self.library, self.device, self.options)
            if self.options.refit:
                check_weights(TensorRTEngine(spec, plan, self.device), weight_names(path, model.state_dict().keys()))
            yield path, plan, report


def make_builder(target: Target, device: torch.device, options: CompileOptions | None = None) -> Builder:
    """What builds the target's plans here. Raises TensorRTError if nothing does, with what to install or to do."""
    library = library_that_builds(device, target.targets)
    targets = (target.targets or (capability(device),)) if library.portable else ()
    options = options or CompileOptions(timing_cache=target.folder.parent / TIMES)
    if library.portable and target.refit and device.type != "cuda":
        raise TensorRTError(f"{library.title} builds refittable plans on a machine with a GPU only: leave out --refit")
    return Builder(library, device, replace(options, targets=targets, refit=bool(target.refit)))


def build(
    target: Target,
    checkpoint: Checkpoint,
    device: torch.device,
    options: CompileOptions | None = None,
    strict: bool = False,
) -> tuple[list[Report], list[Measurement]]:
    """Build all plans and save them.

    Where the target asks for plugins and building with them fails, builds without and logs why; strict: raises instead.
    Raises TensorRTError, ExportError or BuildError, and then saves nothing.
    """
    builder = make_builder(target, device, options)
    target = replace(target, plugins=bool(target.plugins), refit=bool(target.refit))
    if target.plugins and target.precision == "fp16":
        try:
            return _build(target, checkpoint, builder, plugins=True)
        except (TensorRTError, BuildError) as error:
            if strict:
                raise
            log.warning("building without plugins, because with them it fails: %s", str(error))
            target = replace(target, plugins=False)
    return _build(target, checkpoint, builder, plugins=False)


def _build(
    target: Target, checkpoint: Checkpoint, builder: Builder, plugins: bool
) -> tuple[list[Report], list[Measurement]]:
    # Of the sources as they are now, not after minutes.
    manifest = expected_manifest(target, builder.device, library=builder.library)
    if plugins:
        register_plugin(builder)  # the parser looks for it
    dtype, size = PRECISIONS[target.precision].dtype, (target.height, target.width, target.samples)
    model = checkpoint.load_model()
    plans, reports, measurements = {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        converted = make_fast(deepcopy(model), dtype)
        for path, plan, report in builder.stages(converted, size, Path(folder), plugins):
            plans[report.engine], files[report.engine] = plan, path
            reports.append(report)
        is_slow = dtype == torch.float16 and builder.device.type == "cpu"
        trial = prepare(model.to(builder.device), dtype, size, builder.device, eager=not is_slow)
        for name, plan in tqdm(plans.items(), desc="checking", unit="stage"):
            by_onnx = _measure_onnx(trial, trial.stages[name].spec, files[name])
            if builder.runs:
                measurement = trial.measure(make_engine(trial, name, plan))
                measurements.append(replace(measurement, onnx_error=by_onnx.error if by_onnx else None))
            elif by_onnx:
                measurements.append(by_onnx)
    check(measurements)
    if not builder.runs:
        where = " or ".join(map(sm, builder.options.targets))
        errors = "the errors are those of the ONNX files in onnxruntime" if measurements else "nothing was compared"
        log.warning("the plans were not run, %s; run python -m build --check on a machine with %s", errors, where)
    save(target.folder, pack_engines(plans), manifest)
    return reports, measurements


def make_engine(trial: Trial, name: str, plan: bytes) -> TensorRTEngine:
    """An engine of the trial's stage, ready to be measured."""
    engine = TensorRTEngine(trial.stages[name].spec, plan, trial.device)
    allocate_scratch([[engine]], trial.device)
    return engine


def register_plugin(builder: Builder) -> None:
    """Make GroupNorm's plugin known to TensorRT, for this GPU. Raises BuildError with the reason."""
    if not builder.library.plugins:
        raise BuildError(f"{builder.library.title} takes no plugins: leave out --plugins")
    architecture = capability(builder.device)
    try:
        try_compiler(architecture)
        register(architecture)
    except Exception as error:  # whatever TensorRT's registry raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BuildError(f"the plugin for GroupNorm cannot be registered ({reason}): leave out --plugins") from error


def _measure_onnx(trial: Trial, spec: EngineSpec, path: Path) -> Measurement | None:
    """Of the file by itself, to tell its errors from TensorRT's. None where onnxruntime cannot run it."""
    if find_spec("onnxruntime") is None:
        return None
    from build.onnx_engine import OnnxEngine

    try:
        return trial.measure(OnnxEngine(spec, path), timed=False)
    except Exception as error:  # an older onnxruntime may lack operators; the engine is judged without it
        log.warning("onnxruntime does not run stage %s (%s)", spec.name, " ".join(str(error).split()))
        return None
