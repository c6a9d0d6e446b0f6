"""Finds engine files for a picture size, checks them against this machine, and returns the backend that uses them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cldm.checkpoint import Checkpoint
from cldm.compiled_files import CodeError, Compiled
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.prompt_syntax import PLAIN, PromptSyntax
from cldm.stages import STAGES, Size, make_stages
from cldm.tensorrt_engines import TensorRTEngines
from files import digest
from ldm.config import MODELS, load_architecture
from ldm.shapes_only import shapes_only
from runtime.artifacts import KERNELS, EngineFileError, Manifest, read, read_manifest, read_stages
from runtime.backends import BACKENDS, PRECISIONS, Backend
from runtime.compiled_code import Tuning
from runtime.inductor import CompiledEngines
from runtime.machine import NONE, machine, tensorrt_machine
from runtime.sources import fingerprint
from runtime.tensorrt_kernels import KernelCache
from runtime.tensorrt_library import Library, capability, check_device, library_that_runs_on, sm

log = logging.getLogger(__name__)

ENGINES = MODELS / "engines"
DIGITS = 16  # hexadecimal digits of each digest: enough to avoid collisions, short enough for error messages
# These files and all that they import determine the engines.
SOURCES = {
    "inductor": (
        *("cldm/stages.py", "cldm/fast.py", "runtime/inductor.py"),
        *("plugins/layers.py", "plugins/update/__init__.py", "plugins/update/op.py"),
    ),
    "tensorrt": ("cldm/stages.py", "cldm/fast.py", "build/export.py", "build/compile.py"),
}
CUDA_SOURCES = (
    *("plugins/arithmetic.cuh", "plugins/hopper/hopper.cuh", "plugins/product/sums.cuh"),
    *("plugins/group_norm/values.cuh", "plugins/group_norm/kernel.cu", "plugins/group_norm/large.cu"),
    *("plugins/long_attention/kernel.cu", "plugins/update/kernel.cu"),
    *("plugins/product/large_tiles.cu", "plugins/product/many_rows.cu"),
)


@dataclass(frozen=True)
class Target:
    """What engine files are built for: architecture, picture size, precision, backend and, for TensorRT, weights."""

    architecture: str
    height: int
    width: int
    samples: int
    precision: str
    backend: str = "inductor"
    weights: str = NONE  # the checkpoint's fingerprint, for a backend whose engines hold the weights
    checkpoint: str = NONE  # the checkpoint's name
    vae: str | None = None  # the file of another VAE
    # TensorRT only; None accepts engine files built either way.
    refit: bool | None = None  # whether the weights can be replaced
    plugins: bool | None = None  # whether norms in half precision use our kernel
    targets: tuple[int, ...] = ()  # compute capabilities of the GPUs, 89 for 8.9; empty: this machine's GPU
    syntax: PromptSyntax = PLAIN

    def of(self, checkpoint: Checkpoint) -> "Target":
        """Return this target for the weights of a checkpoint; reads its files to compute the fingerprint."""
        fingerprint = checkpoint.fingerprint()[:DIGITS]
        return replace(self, weights=fingerprint, checkpoint=checkpoint.name, vae=checkpoint.vae)

    @property
    def folder(self) -> Path:
        name = f"{self.backend}_{self.architecture}_{self.height}x{self.width}x{self.samples}_{self.precision}"
        return ENGINES / (f"{name}_{self.syntax.name}{self.syntax.chunks}" if self.syntax.weighted else name)

    @property
    def size(self) -> Size:
        size = self.height, self.width, self.samples
        return (*size, self.syntax) if self.syntax.weighted else size

    def command(self, device: torch.device) -> str:
        """Return the command that builds the engine files on a machine with this device."""
        options = "" if self.checkpoint == NONE else f" --weights {self.checkpoint}"
        options += f" --vae {self.vae}" if self.vae else ""
        if self.targets:
            options += " --target " + " ".join(map(sm, self.targets))
        elif device.type == "cpu":
            options += " --device cpu"
        if self.syntax.weighted:
            options += f" --prompt-syntax {self.syntax.name} --prompt-chunks {self.syntax.chunks}"
        options += "".join(f" --{name}" for name in ("plugins", "refit") if getattr(self, name))
        return (
            f"python -m build --backend {self.backend} --architecture {self.architecture} --height {self.height} "
            f"--width {self.width} --samples {self.samples} --precision {self.precision}{options}"
        )


def expected_manifest(
    target: Target, device: torch.device, tuning: Tuning | None = None, library: Library | None = None
) -> Manifest:
    """Return the manifest of engine files that fit this machine, these sources and `target`.

    tuning: Inductor's options, by default `Tuning()`. library: the one that builds or runs TensorRT's engines; by
        default the library that built the target's files, if it can run here, else the first that can.
    Raises TensorRTError if no TensorRT library can be imported.
    """
    architecture = load_architecture(target.architecture)
    with shapes_only():  # the specs need shapes only
        model = make_fast(ControlLDM(architecture), PRECISIONS[target.precision].dtype)
    specs = [stage.spec for stage in make_stages(model, *target.size).values()]
    notes: dict[str, Any] = {"checkpoint": target.checkpoint}
    if target.backend == "tensorrt":
        library = library or library_that_runs_on(device, _title(target.folder))
        if library.portable and not target.targets:
            target = replace(target, targets=(capability(device),))
        here = tensorrt_machine(device, library, target.targets) | {"weights": target.weights}
        options = {"refit": target.refit, **({"plugins": target.plugins} if target.precision == "fp16" else {})}
    else:
        here, options = machine(device), {**(tuning or Tuning()).options()}
        notes["choices"] = {}  # between kernels, by the build
    facts = {
        "backend": target.backend,
        "architecture": target.architecture,
        "architecture_digest": digest(repr(architecture))[:DIGITS],
        "height": target.height,
        "width": target.width,
        "samples": target.samples,
        "precision": target.precision,
        **({"prompt_syntax": str(target.syntax)} if target.syntax.weighted else {}),
        "specs_digest": digest(repr(specs))[:DIGITS],
        "sources_digest": fingerprint(SOURCES[target.backend], CUDA_SOURCES)[:DIGITS],
        **here,
        **{f"tuning.{name}": value for name, value in options.items()},
    }
    return Manifest(facts, target.command(device), notes)


def find_engines(target: Target, device: torch.device, weights: Mapping[str, Tensor] | None = None) -> Backend:
    """Return the target's backend, ready to create engines from existing files. The eager backend needs no files.

    weights: tensors by the checkpoint's keys that replace those in TensorRT's files, which then must have been built
        with --refit.
    Raises EngineFileError if the files are missing, damaged or built for something else, and TensorRTError if TensorRT
    cannot run.
    """
    if target.backend == "tensorrt":
        check_device(device)
        files = target if weights is None else replace(target, refit=True)
        expected = expected_manifest(files, device)
        serialized = read_stages(files.folder, expected, STAGES)
        return TensorRTEngines(serialized, device, KernelCache(files.folder / KERNELS), weights).backend
    if target.backend == "inductor":
        return Backend("inductor", CompiledEngines(_read_code(target, device)))
    return BACKENDS[target.backend]


def check_code(target: Target, device: torch.device) -> None:
    """Raise EngineFileError if the target's files of compiled code are missing, damaged or built for something else."""
    read_stages(target.folder, expected_manifest(target, device), STAGES)


def is_up_to_date(target: Target, device: torch.device, library: Library | None = None) -> bool:
    """Return whether engine files exist that fit this target, machine and source version. Logs the reason if not."""
    try:
        read(target.folder, expected_manifest(target, device, library=library))
    except EngineFileError as error:
        log.info("%s; building them", error.reason)
        return False
    return True


def _read_code(target: Target, device: torch.device) -> dict[str, Any]:
    """Return the code of all stages from the target's files; none for a GPU that the code is not for."""
    expected = expected_manifest(target, device)
    compiled = Compiled.of(read_stages(target.folder, expected, STAGES))
    if device.index:
        log.warning(
            "engine files hold code for the first GPU only: compiling for %s, which takes minutes; set "
            "CUDA_VISIBLE_DEVICES to %d and use device cuda instead",
            device,
            device.index,
        )
        return {}
    try:
        return compiled.load(device)
    except CodeError as error:
        raise EngineFileError(f"engine files {target.folder}: {error}", expected.command) from error


def _title(folder: Path) -> str:
    """Return the title of the library that built the engines, or "" if the manifest does not show it.

    In that case `read` reports what is wrong with the manifest.
    """
    try:
        built = read_manifest(folder)["tensorrt"]
    except (OSError, ValueError, KeyError):
        return ""
    return built.rpartition(" ")[0] if isinstance(built, str) else ""
