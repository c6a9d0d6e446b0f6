"""Compiles the six stages with Inductor, checks their errors, and saves the code.

The weights are random, with a fixed seed: engine files contain no weights and fit every checkpoint of the architecture.
"""

from contextlib import nullcontext

import torch
from tqdm import tqdm

from build.errors import BuildError
from build.measurement import Measurement, check
from build.verify import Trial, prepare
from cldm.checkpoint import Checkpoint
from cldm.engine_files import Target, expected_manifest
from cldm.stages import Stage
from runtime.artifacts import save_stages
from runtime.backends import PRECISIONS
from runtime.inductor import InductorEngine

WEIGHTS = "random:0"


def build(target: Target, device: torch.device) -> list[Measurement]:
    """Compile all stages, save the engine files and return the measurements. If a stage fails, save nothing.

    Raise BuildError if a stage cannot be compiled or its error exceeds the bound, OSError if saving fails.
    """
    manifest = expected_manifest(target, device)  # before compiling, because the sources may change meanwhile
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        measurements, code = _compile_all(target, device)
    check(measurements)
    save_stages(target.folder, code, manifest)
    return measurements


def _compile_all(target: Target, device: torch.device) -> tuple[list[Measurement], dict[str, bytes]]:
    model = Checkpoint(WEIGHTS, target.architecture, "given").load_model(device)
    trial = prepare(model, PRECISIONS[target.precision].dtype, target.size, device)
    if device.type == "cuda":
        from plugins.layers import use_kernels  # imported lazily: only PyTorch for CUDA includes Triton

        use_kernels(model)
    measurements, code = [], {}
    with tqdm(trial.stages.values(), unit="stage") as progress:
        for stage in progress:
            progress.set_description(f"compiling {stage.spec.name}")
            measurement, code[stage.spec.name] = _compile(stage, trial)
            measurements.append(measurement)
            progress.set_postfix_str(f"{stage.spec.name} {measurements[-1].compile_seconds:.0f} s")
    return measurements, code


def _compile(stage: Stage, trial: Trial) -> tuple[Measurement, bytes]:
    engine = InductorEngine(stage.spec, stage.module)
    try:
        return trial.measure(engine), engine.code.save()
    except RuntimeError as error:  # base class of all errors of Inductor
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise BuildError(f"stage {stage.spec.name} cannot be compiled ({type(error).__name__}: {reason})") from error
