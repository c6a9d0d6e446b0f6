"""Where a picture's engine files lie, and what their manifest must say here and now."""

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from cldm.model import ControlLDM
from cldm.pipeline import to_precision
from cldm.stages import make_stages
from ldm.config import MODELS, load_architecture
from runtime.artifacts import Manifest, load, machine
from runtime.backends import PRECISIONS
from runtime.inductor import Tuning

ENGINES = MODELS / "engines"
ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    *(f"ldm/{name}.py" for name in ("attention", "blocks", "clip", "unet", "vae")),
    *(f"cldm/{name}.py" for name in ("controlnet", "kv", "model", "stages")),
    "plugins/convolution.py",
    "runtime/inductor.py",
)  # what the compiled code depends on, apart from the architecture's numbers


@dataclass(frozen=True)
class Target:
    """What engines are built for: any checkpoint of one architecture, pictures of one size."""

    architecture: str
    height: int
    width: int
    samples: int
    precision: str

    @property
    def folder(self) -> Path:
        name = f"inductor_{self.architecture}_{self.height}x{self.width}x{self.samples}_{self.precision}"
        return ENGINES / name


def expected_manifest(target: Target, device: torch.device, tuning: Tuning | None = None) -> Manifest:
    """The manifest of engine files that fit this machine, these sources and `target`."""
    architecture = load_architecture(target.architecture)
    with torch.device("meta"):  # the signatures need shapes, no weights
        model = to_precision(ControlLDM(architecture), PRECISIONS[target.precision].dtype)
    stages = make_stages(model, target.height, target.width, target.samples)
    return Manifest(
        backend="inductor",
        architecture=target.architecture,
        architecture_digest=_digest(repr(architecture)),
        height=target.height,
        width=target.width,
        samples=target.samples,
        precision=target.precision,
        specs_digest=_digest(repr([stage.spec for stage in stages.values()])),
        sources_digest=_digest("".join(_code(ROOT / source) for source in SOURCES)),
        tuning=(tuning or Tuning()).options(),
        **machine(device),
    )


def load_engine_files(target: Target, device: torch.device) -> None:
    """Give the target's engine files to torch.compile, for all InductorEngines that are made after.

    Raises EngineFileError with one sentence if they are missing, damaged or made for something else. Without them an
    InductorEngine works too; it compiles for minutes.
    """
    load(target.folder, expected_manifest(target, device))


def _code(source: Path) -> str:
    """What is left of a file without comments and line breaks."""
    return ast.dump(ast.parse(source.read_bytes()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]  # against accidents; shorter to read in a refusal
