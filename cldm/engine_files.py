"""Where a picture's engine files lie, what their manifest must say here and now, and the backend that they make."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cldm.checkpoint import Checkpoint
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.stages import make_stages
from cldm.tensorrt_engines import TensorRTEngines, unpack_engines
from files import digest
from ldm.config import MODELS, load_architecture
from runtime.artifacts import MANIFEST, EngineFileError, Manifest, load, read
from runtime.backends import BACKENDS, PRECISIONS, Backend
from runtime.inductor import CompiledEngines, Tuning
from runtime.machine import NONE, machine, tensorrt_machine
from runtime.sources import fingerprint
from runtime.tensorrt_kernels import KernelCache
from runtime.tensorrt_library import Library, capability, check_device, library_that_runs_on, sm

log = logging.getLogger(__name__)

ENGINES = MODELS / "engines"
DIGITS = 16  # of a digest, enough against accidents and short to read in a refusal
KERNELS = "kernels.bin"  # in the folder of engines whose kernels are compiled where they run
# What engines are made by, with all that these import.
SOURCES = {
    "inductor": ("cldm/stages.py", "cldm/fast.py", "runtime/inductor.py", "plugins/layers.py"),
    "tensorrt": ("cldm/stages.py", "cldm/fast.py", "build/export.py", "build/compile.py"),
}
KERNEL = "plugins/group_norm/kernel.cu"


@dataclass(frozen=True)
class Target:
    """What engines are built for: pictures of one size, one architecture, and any weights or those of `weights`."""

    architecture: str
    height: int
    width: int
    samples: int
    precision: str
    backend: str = "inductor"
    weights: str = NONE  # the checkpoint's fingerprint, for a backend whose engines hold the weights
    checkpoint: str = NONE  # and its name
    # TensorRT's; None: as they were built.
    refit: bool | None = None  # can they be given other weights?
    plugins: bool | None = None  # are norms in half precision our kernel?
    targets: tuple[int, ...] = ()  # compute capabilities of the GPUs, 89 for 8.9; empty: of the one that is here

    def of(self, checkpoint: Checkpoint) -> "Target":
        """The same with the weights of this checkpoint, which are read for their fingerprint."""
        return replace(self, weights=checkpoint.fingerprint()[:DIGITS], checkpoint=checkpoint.name)

    @property
    def folder(self) -> Path:
        name = f"{self.backend}_{self.architecture}_{self.height}x{self.width}x{self.samples}_{self.precision}"
        return ENGINES / name

    def command(self, device: torch.device) -> str:
        """What builds its engine files, on a machine that has the device."""
        options = "" if self.checkpoint == NONE else f" --checkpoint {self.checkpoint}"
        if self.targets:
            options += " --target " + " ".join(map(sm, self.targets))
        elif device.type == "cpu":
            options += " --device cpu"
        options += "".join(f" --{name}" for name in ("plugins", "refit") if getattr(self, name))
        return (
            f"python -m build --backend {self.backend} --architecture {self.architecture} --height {self.height} "
            f"--width {self.width} --samples {self.samples} --precision {self.precision}{options}"
        )


def expected_manifest(
    target: Target, device: torch.device, tuning: Tuning | None = None, library: Library | None = None
) -> Manifest:
    """The manifest of engine files that fit this machine, these sources and `target`.

    library: that builds or runs TensorRT's engines, by default the one that the target's files are for.
    """
    architecture = load_architecture(target.architecture)
    with torch.device("meta"):  # the signatures need shapes, no weights
        model = make_fast(ControlLDM(architecture), PRECISIONS[target.precision].dtype)
    specs = [stage.spec for stage in make_stages(model, target.height, target.width, target.samples).values()]
    if target.backend == "tensorrt":
        library = library or library_that_runs_on(device, _title(target.folder))
        if library.portable and not target.targets:
            target = replace(target, targets=(capability(device),))
        here = tensorrt_machine(device, library, target.targets) | {"weights": target.weights}
        options = {"refit": target.refit, **({"plugins": target.plugins} if target.precision == "fp16" else {})}
    else:
        here, options = machine(device), {**(tuning or Tuning()).options()}
    facts = {
        "backend": target.backend,
        "architecture": target.architecture,
        "architecture_digest": digest(repr(architecture))[:DIGITS],
        "height": target.height,
        "width": target.width,
        "samples": target.samples,
        "precision": target.precision,
        "specs_digest": digest(repr(specs))[:DIGITS],
        "sources_digest": fingerprint(SOURCES[target.backend], (KERNEL,))[:DIGITS],
        **here,
        **{f"tuning.{name}": value for name, value in options.items()},
    }
    return Manifest(facts, target.command(device), {"checkpoint": target.checkpoint})


def find_engines(target: Target, device: torch.device, weights: Mapping[str, Tensor] | None = None) -> Backend:
    """The target's backend, ready to make engines from files that were built beforehand.

    weights: by the checkpoint's keys; TensorRT's engines get them in place of those that their files hold.
    Raises EngineFileError with one sentence if they are missing, damaged or made for something else, and
    TensorRTError where TensorRT cannot run.
    """
    if target.backend == "tensorrt":
        check_device(device)
        files = target if weights is None else replace(target, refit=True)
        serialized = unpack_engines(read(files.folder, expected_manifest(files, device)))
        return TensorRTEngines(serialized, device, KernelCache(files.folder / KERNELS), weights).backend
    if target.backend == "inductor":
        load_engine_files(target, device)
        return Backend("inductor", CompiledEngines())
    return BACKENDS[target.backend]


def is_up_to_date(target: Target, device: torch.device, library: Library | None = None) -> bool:
    """Are whole engine files for this target, machine and version there? Logs why not."""
    try:
        read(target.folder, expected_manifest(target, device, library=library))
    except EngineFileError as error:
        log.info("%s", error)
        return False
    return True


def load_engine_files(target: Target, device: torch.device) -> None:
    """Give the target's engine files to torch.compile, for all InductorEngines that are made after.

    Raises EngineFileError with one sentence if they are missing, damaged or made for something else. Without them an
    InductorEngine works too; it compiles for minutes.
    """
    load(target.folder, expected_manifest(target, device))


def _title(folder: Path) -> str:
    """Of the library that built the folder's engines, "" where the folder does not say; `read` says what is wrong."""
    try:
        built = json.loads((folder / MANIFEST).read_bytes())["tensorrt"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(built).rpartition(" ")[0]
