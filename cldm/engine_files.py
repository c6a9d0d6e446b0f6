"""Where a picture's engine files lie, what their manifest must say here and now, and the engines that come of them."""

import json
import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakSet

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor, nn

from cldm.checkpoint import Checkpoint
from cldm.model import ControlLDM
from cldm.pipeline import to_precision
from cldm.stages import make_stages
from files import digest
from ldm.config import MODELS, load_architecture
from runtime.artifacts import MANIFEST, NONE, EngineFileError, Manifest, load, machine, plans_machine, read
from runtime.backends import BACKENDS, PRECISIONS, Backend
from runtime.engine import Engine
from runtime.inductor import InductorEngine, Tuning
from runtime.sources import fingerprint
from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_kernels import KernelCache
from runtime.tensorrt_library import Library, check_device, library_that_runs_on
from runtime.tensorrt_refit import refit

log = logging.getLogger(__name__)

ENGINES = MODELS / "engines"
ROOT = Path(__file__).resolve().parent.parent
DIGITS = 16  # of a digest, enough against accidents and short to read in a refusal
KERNELS = "kernels.bin"  # in the folder of plans whose kernels are compiled where they run
# What engines are made by, with all that these import.
SOURCES = {
    "inductor": ("cldm/stages.py", "runtime/inductor.py", "plugins/layers.py"),
    "tensorrt": ("cldm/stages.py", "build/export.py", "build/compile.py"),
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


def expected_manifest(
    target: Target, device: torch.device, tuning: Tuning | None = None, library: Library | None = None
) -> Manifest:
    """The manifest of engine files that fit this machine, these sources and `target`.

    library: that builds or runs plans of TensorRT, by default the one that the target's files are for.
    """
    architecture = load_architecture(target.architecture)
    with torch.device("meta"):  # the signatures need shapes, no weights
        model = to_precision(ControlLDM(architecture), PRECISIONS[target.precision].dtype)
    stages = make_stages(model, target.height, target.width, target.samples)
    if target.backend == "tensorrt":
        library = library or library_that_runs_on(device, _title(target.folder))
        here, options = plans_machine(device, library, target.targets), _plans_tuning(target)
    else:
        here, options = machine(device), {**(tuning or Tuning()).options()}
    return Manifest(
        backend=target.backend,
        architecture=target.architecture,
        architecture_digest=digest(repr(architecture))[:DIGITS],
        height=target.height,
        width=target.width,
        samples=target.samples,
        precision=target.precision,
        specs_digest=digest(repr([stage.spec for stage in stages.values()]))[:DIGITS],
        sources_digest=fingerprint(SOURCES[target.backend], (KERNEL,))[:DIGITS],
        weights=target.weights,
        checkpoint=target.checkpoint,
        **here,
        tuning=options,
    )


@dataclass(frozen=True)
class Plans:
    """Makes TensorRT's engines of one size of pictures: of the plans' own weights, or of others in their place.

    Pipelines share what was read of a plan, its weights above all, for as long as one of them is there.
    """

    plans: Mapping[str, bytes]  # by stage
    device: torch.device
    kernels: KernelCache | None = None  # for plans whose kernels are compiled here
    weights: Mapping[str, Tensor] | None = None  # by the checkpoint's keys, as they are when a plan is read
    made: dict[str, WeakSet[TensorRTEngine]] = field(default_factory=dict, init=False, compare=False)  # by stage

    def __call__(self, spec: EngineSpec, module: nn.Module) -> Engine:
        others = self.made.setdefault(spec.name, WeakSet())
        other = next(iter(others), None)
        engine = other.twin() if other else self.read(spec)
        others.add(engine)
        return engine

    def keep(self) -> None:
        """See Backend."""
        if self.kernels:
            self.kernels.save()

    def read(self, spec: EngineSpec) -> TensorRTEngine:
        """An engine that shares nothing with others. Raises TensorRTError."""
        engine = TensorRTEngine(spec, self.plans[spec.name], self.device, self.kernels)
        if self.weights is not None:
            refit(engine, self.weights)
        return engine


class Compiled:
    """Makes inductor's engines of one size on one model: further pipelines run the code that the first one loaded."""

    def __init__(self) -> None:
        self.unbound: dict[EngineSpec, InductorEngine] = {}  # else they would keep a pipeline's buffers alive

    def __call__(self, spec: EngineSpec, module: nn.Module) -> InductorEngine:
        if spec not in self.unbound:
            self.unbound[spec] = InductorEngine(spec, module)
        return copy(self.unbound[spec])


def find_engines(target: Target, device: torch.device, weights: Mapping[str, Tensor] | None = None) -> Backend:
    """The target's backend, ready to make engines from files that were built beforehand.

    weights: by the checkpoint's keys; TensorRT's engines get them in place of those that their files hold.
    Raises EngineFileError with one sentence if they are missing, damaged or made for something else, and
    TensorRTError where TensorRT cannot run.
    """
    if target.backend == "tensorrt":
        check_device(device)
        files = target if weights is None else replace(target, refit=True)
        plans = unpack_plans(read(files.folder, expected_manifest(files, device)))
        make = Plans(plans, device, KernelCache(files.folder / KERNELS), weights)
        return Backend("tensorrt", make, make.keep)
    if target.backend == "inductor":
        load_engine_files(target, device)
        return Backend("inductor", Compiled())
    return BACKENDS[target.backend]


def refitted(backend: Backend, size: Target, model: ControlLDM, weights: Mapping[str, Tensor]) -> Backend:
    """The backend with other weights in TensorRT's engines: `weights` as they are when a plan is read.

    Each plan is read once with those of `model` and thrown away: so it is known what TensorRT refuses before anything
    has changed, and no engine is refitted that could be running. Raises TensorRTError.
    """
    assert isinstance(backend.make_engine, Plans)
    trial = replace(backend.make_engine, weights=model.state_dict())
    for stage in make_stages(model, size.height, size.width, size.samples).values():
        trial.read(stage.spec)
    plans = replace(trial, weights=weights)
    return Backend(backend.name, plans, plans.keep)


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


def pack_plans(plans: Mapping[str, bytes]) -> bytes:
    """Plans by stage, as one file."""
    return safetensors.numpy.save({name: np.frombuffer(plan, np.uint8) for name, plan in plans.items()})


def unpack_plans(data: bytes) -> dict[str, bytes]:
    return {name: plan.tobytes() for name, plan in safetensors.numpy.load(data).items()}


def _title(folder: Path) -> str:
    """Of the library that built the folder's plans, "" where the folder does not say; `read` says what is wrong."""
    try:
        built = json.loads((folder / MANIFEST).read_bytes())["tensorrt"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(built).rpartition(" ")[0]


def _plans_tuning(target: Target) -> dict[str, bool | None]:
    """Full precision has no plugins, so that its engines are the same with and without."""
    plugins = {"plugins": target.plugins} if target.precision == "fp16" else {}
    return {"refit": target.refit, **plugins}
