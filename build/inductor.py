"""Compiles the six stages with Inductor, checks their errors, and saves the code.

The weights of the check are random, with a fixed seed: engine files contain no weights and fit every checkpoint of the
architecture.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from tqdm import tqdm

from build.errors import BuildError
from build.measurement import Measurement, check
from build.verify import Trial, prepare
from build.workers import Result, compiling
from cldm.checkpoint import Checkpoint
from cldm.compiled_files import Compiled
from cldm.engine_files import Target, expected_manifest
from cldm.stages import STAGES
from plugins.layers import use_kernels
from plugins.machine_code import KERNELS
from plugins.update.op import load_kernel
from runtime.artifacts import save_stages
from runtime.backends import PRECISIONS
from runtime.call_lock import current
from runtime.inductor import InductorEngine

WEIGHTS = "random:0"


def build(target: Target, device: torch.device) -> list[Measurement]:
    """Compile all stages, save the engine files and return the measurements. If a stage fails, save nothing.

    Raise BuildError for another GPU than the first, because code holds the number of its device, and if a stage cannot
    be compiled or its error exceeds the bound; OSError if saving fails.
    """
    if device.index:
        raise BuildError(
            f"got device {device}, expected the first GPU of the process, for which compiled code is: set "
            f"CUDA_VISIBLE_DEVICES to {device.index} and use --device cuda"
        )
    manifest = expected_manifest(target, device)  # before compiling, because the sources may change meanwhile
    with current(device):
        with compiling(target, device) as (choices, results):
            trial = _trial(target, device)
            found = {result.stage: result for result in _shown(results)}
        measurements = [_measure(found[stage], trial) for stage in STAGES]  # when nothing else runs on the GPU
    check(measurements)
    parts = Compiled({}, KERNELS, {}).parts
    for result in found.values():
        parts |= result.compiled.parts
    save_stages(target.folder, parts, replace(manifest, notes={**manifest.notes, "choices": choices}))
    return measurements


def _shown(results: Iterator[Result]) -> Iterator[Result]:
    with tqdm(results, "compiling", total=len(STAGES), unit="stage") as progress:
        for result in progress:
            progress.set_postfix_str(f"{result.stage} {result.seconds:.0f} s")
            yield result


def _trial(target: Target, device: torch.device) -> Trial:
    model = Checkpoint(WEIGHTS, target.architecture, "given").load_model(device)
    precision = PRECISIONS[target.precision]
    trial = prepare(model, precision.dtype, target.size, device, fp8=precision.fp8)
    if device.type == "cuda":
        use_kernels(model)
        load_kernel(device)  # of no stage
    return trial


def _measure(result: Result, trial: Trial) -> Measurement:
    stage = trial.stages[result.stage]
    code = result.compiled.load(trial.device)
    measurement = trial.measure(InductorEngine(stage.spec, stage.module, artifact=code[result.stage]))
    return replace(measurement, compile_seconds=result.seconds)
