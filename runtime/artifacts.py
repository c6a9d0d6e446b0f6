"""Engine files: what torch.compile or TensorRT made, kept for the next start.

    <folder>/artifacts.bin    kernels and tuning choices, from torch.compiler.save_cache_artifacts(), without weights;
                              or TensorRT's plans, with them
    <folder>/manifest.json    for what, with what and for which device they were made

The artifacts hold code that will run: load only files that were built here or by someone you trust. The checksum
guards against damage, not against malice.
"""

import fcntl
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import torch

from files import digest
from runtime.tensorrt_library import Library, capability, dotted

ARTIFACTS, MANIFEST = "artifacts.bin", "manifest.json"
NONE = "none"  # in a manifest: has no part in it


class EngineFileError(ValueError):
    """Engine files that are missing, damaged or made for something else: what differs and the command that mends it."""


@dataclass(frozen=True)
class Manifest:
    """All that must agree for engine files to be of use, and, once they are saved, the check of the artifacts."""

    backend: str
    architecture: str
    architecture_digest: str  # of its numbers
    height: int  # of the picture, pixels
    width: int
    samples: int
    precision: str
    specs_digest: str  # of the signatures of all engines
    sources_digest: str  # of the files that define the networks
    device: str  # the GPU's name, or cpu; of plans that any model of a capability runs, NONE
    capability: str  # of the GPU, or of several, separated by commas; on the CPU PyTorch's instruction set
    torch: str
    cuda: str  # the version that PyTorch was built with
    triton: str
    python: str  # major.minor
    tuning: dict[str, bool | None]  # None in an expected manifest: either will do
    tensorrt: str = NONE  # the library's title and version
    weights: str = NONE  # fingerprint of the checkpoint, where engines hold its weights
    checkpoint: str = NONE  # the name that it was given by, which may change
    size: int = 0  # of artifacts.bin, bytes
    sha256: str = ""

    @property
    def command(self) -> str:
        """What builds such files."""
        device = " --device cpu" if self.device == "cpu" else ""
        if self.tensorrt != NONE and self.device == NONE:
            device = " --target " + " ".join(f"sm{one.replace('.', '')}" for one in self.capability.split(", "))
        weights = "" if self.checkpoint == NONE else f" --checkpoint {self.checkpoint}"
        options = "".join(f" --{name}" for name in ("plugins", "refit") if self.tuning.get(name))
        return (
            f"python -m build --backend {self.backend} --architecture {self.architecture} --height {self.height} "
            f"--width {self.width} --samples {self.samples} --precision {self.precision}{weights}{device}{options}"
        )


class Machine(TypedDict):
    """The manifest's fields that the device and the installed libraries fix."""

    device: str
    capability: str
    torch: str
    cuda: str
    triton: str
    python: str
    tensorrt: str


def machine(device: torch.device) -> Machine:
    """This machine's part of the manifest of torch.compile's engines."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "capability": dotted(capability(device)) if is_cuda else torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda or NONE,
        "triton": package_version("triton"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "tensorrt": NONE,
    }


def plans_machine(device: torch.device, library: Library, targets: Sequence[int] = ()) -> Machine:
    """That of TensorRT's plans, which know nothing of the rest of the installation.

    targets: compute capabilities, by default the device's. Raises TensorRTError if the library cannot be imported.
    """
    return {
        "device": NONE if library.portable else torch.cuda.get_device_name(device),
        "capability": ", ".join(dotted(one) for one in targets or (capability(device),)),
        "torch": NONE,
        "cuda": NONE,
        "triton": NONE,
        "python": NONE,
        "tensorrt": f"{library.title} {library.version()}",
    }


def save(folder: Path, data: bytes, manifest: Manifest) -> None:
    """Write both files under a temporary name, then rename; size and checksum are filled in.

    What was in `folder` is replaced once all is written. What killed runs left beside it is removed.
    Raises OSError with the path where the folder cannot be written.
    """
    manifest = replace(manifest, size=len(data), sha256=digest(data))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            _clean_up(folder)
            try:
                _replace(folder, {ARTIFACTS: data, MANIFEST: json.dumps(asdict(manifest), indent=2).encode()})
            finally:
                _clean_up(folder)
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}): it must be a place you may write to") from error


def load(folder: Path, expected: Manifest) -> None:
    """Check the files and give the artifacts to torch.compile. Raises EngineFileError, as `read` does."""
    data = read(folder, expected)
    try:
        info = torch.compiler.load_cache_artifacts(data)
    except Exception as error:  # whatever a reader of foreign bytes may raise
        raise _error(folder, f"PyTorch cannot read {ARTIFACTS} ({type(error).__name__})", expected) from error
    if info is None:
        raise _error(folder, f"PyTorch cannot read {ARTIFACTS}", expected)


def read(folder: Path, expected: Manifest) -> bytes:
    """The artifacts, if the folder's manifest agrees with `expected` and they with the manifest.

    Size and checksum of `expected` are not looked at.
    Raises EngineFileError with one sentence that names all that differs and the command that builds the files again.
    """
    if not folder.is_dir():
        raise _error(folder, "there is no such folder", expected)
    found = _parse(folder, _bytes(folder, MANIFEST, expected), expected)
    wanted = replace(expected, size=found.size, sha256=found.sha256, checkpoint=found.checkpoint)
    if set(wanted.capability.split(", ")) <= set(str(found.capability).split(", ")):
        wanted = replace(wanted, capability=found.capability)  # made for other GPUs too
    if different := [f"{name} is {got!r}, expected {want!r}" for name, got, want in _differences(found, wanted)]:
        raise _error(folder, ", ".join(different), expected)
    data = _bytes(folder, ARTIFACTS, expected)
    if len(data) != found.size:
        raise _error(folder, f"{ARTIFACTS} has {len(data)} bytes, expected {found.size}", expected)
    if digest(data) != found.sha256:
        raise _error(folder, f"{ARTIFACTS} was altered, its SHA-256 is not that of {MANIFEST}", expected)
    return data


def _parse(folder: Path, content: bytes, expected: Manifest) -> Manifest:
    try:
        values = json.loads(content)
    except ValueError:  # bytes that are no UTF-8 too
        raise _error(folder, f"{MANIFEST} is no JSON", expected) from None
    if not isinstance(values, dict):
        raise _error(folder, f"{MANIFEST} holds no object", expected)
    names = {field.name for field in fields(Manifest)}
    if unknown := sorted(values.keys() - names):
        raise _error(folder, f"{MANIFEST} has the unknown field {unknown[0]!r}", expected)
    if missing := sorted(names - values.keys()):
        raise _error(folder, f"{MANIFEST} lacks the field {missing[0]!r}", expected)
    return Manifest(**values)


def _differences(found: Manifest, wanted: Manifest) -> Iterator[tuple[str, Any, Any]]:
    """Name, value got and value expected of each field that differs; of tuning, each option."""
    for field in fields(Manifest):
        got, want = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(got, dict) and isinstance(want, dict):
            options = sorted(name for name in got.keys() | want.keys() if want.get(name, ...) is not None)
            pairs = [(f"{field.name}.{option}", got.get(option), want.get(option)) for option in options]
        else:
            pairs = [(field.name, got, want)]
        yield from (pair for pair in pairs if pair[1] != pair[2] or type(pair[1]) is not type(pair[2]))


def _bytes(folder: Path, name: str, expected: Manifest) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise _error(folder, f"{name} is missing", expected) from None
    except OSError as error:
        raise _error(folder, f"{name} cannot be read ({error.strerror})", expected) from error


def _error(folder: Path, what: str, expected: Manifest) -> EngineFileError:
    return EngineFileError(f"engine files {folder}: {what}; build them with {expected.command}")


def _replace(folder: Path, contents: dict[str, bytes]) -> None:
    """Let `folder` hold these files and no others."""
    whole = _temporary(folder)
    for name, content in contents.items():
        (whole / name).write_bytes(content)
    if folder.exists():  # a folder cannot be renamed over another that is not empty
        folder.rename(_temporary(folder))
    whole.rename(folder)


def _temporary(folder: Path) -> Path:
    path = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    path.chmod(0o755)  # mkdtemp's folders are for their owner alone
    return path


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One writer at a time among the folder's neighbours; released by the system if the process is killed."""
    handle = os.open(folder.parent / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _clean_up(folder: Path) -> None:
    """Remove temporary folders. While the lock is held, they are those of killed runs."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(leftover)


def package_version(package: str) -> str:
    """Of an installed package, or NONE."""
    try:
        return version(package)
    except PackageNotFoundError:
        return NONE
