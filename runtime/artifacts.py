"""Saves and loads engine files: the output of torch.compile or TensorRT.

    <folder>/artifacts.bin    kernels and tuning choices from torch.compiler.save_cache_artifacts(), without weights;
                              or serialized TensorRT engines, with weights
    <folder>/manifest.json    the model, the software and the device that they were built for

The artifacts contain code that will be executed: load only files that you or someone you trust built. The checksum
detects damage, not tampering.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from files import digest
from reading import parse_object, read_small, shown

ARTIFACTS, MANIFEST = "artifacts.bin", "manifest.json"


class EngineFileError(ValueError):
    """Engine files are missing, damaged or built for something else; the message states how to rebuild them."""


@dataclass(frozen=True)
class Manifest:
    """The facts that engine files depend on, as JSON values by name.

    facts: must match for the files to be usable. An expected None matches any value; an expected list must be a subset
    of the list in the file. notes: for people, not compared. command: the command that builds such files.
    """

    facts: Mapping[str, Any]
    command: str
    notes: Mapping[str, Any] = field(default_factory=dict)


def save(folder: Path, data: bytes, manifest: Manifest) -> None:
    """Write both files atomically: to a temporary folder that is then renamed to `folder`.

    The manifest file also gets the size and checksum of the data. An existing `folder` is replaced; temporary folders
    of killed runs are removed.
    Raise OSError with the path if the folder cannot be written.
    """
    values = {**manifest.facts, **manifest.notes, "size": len(data), "sha256": digest(data)}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            _clean_up(folder)
            try:
                _replace(folder, {ARTIFACTS: data, MANIFEST: json.dumps(values, indent=2).encode()})
            finally:
                _clean_up(folder)
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}); check permissions and free space") from error


def load(folder: Path, expected: Manifest) -> None:
    """Check the files and load the artifacts into torch.compile's caches. Raise EngineFileError if that fails."""
    data = read(folder, expected)
    try:
        info = torch.compiler.load_cache_artifacts(data)
    except Exception as error:  # unknown bytes can cause any exception
        raise _error(folder, f"PyTorch cannot read {ARTIFACTS} ({type(error).__name__})", expected) from error
    if info is None:
        raise _error(folder, f"PyTorch cannot read {ARTIFACTS}", expected)


def read(folder: Path, expected: Manifest) -> bytes:
    """Return the artifacts. Raise EngineFileError if the files are missing, damaged or do not match `expected`.

    The error lists all facts that differ and states the command that builds the files.
    """
    if not folder.is_dir():
        raise _error(folder, "the folder does not exist", expected)
    found = _parse(folder, _bytes(folder, MANIFEST, expected), expected)
    if different := [
        f"{name} is {shown(found[name])}, expected {shown(want)}"
        for name, want in expected.facts.items()
        if not _agree(found[name], want)
    ]:
        raise _error(folder, ", ".join(different), expected)
    data = _bytes(folder, ARTIFACTS, expected)
    if len(data) != found["size"]:
        raise _error(folder, f"{ARTIFACTS} has {len(data)} bytes, expected {shown(found['size'])}", expected)
    if digest(data) != found["sha256"]:
        raise _error(folder, f"{ARTIFACTS} is damaged: its SHA-256 differs from the one in {MANIFEST}", expected)
    return data


def _parse(folder: Path, content: bytes, expected: Manifest) -> dict[str, Any]:
    try:
        values = parse_object(content)
    except ValueError as error:
        raise _error(folder, f"{MANIFEST} {error}", expected) from None
    names = {*expected.facts, *expected.notes, "size", "sha256"}
    if unknown := sorted(values.keys() - names):
        raise _error(folder, f"{MANIFEST} has the unknown field {shown(unknown[0])}", expected)
    if missing := sorted(names - values.keys()):
        raise _error(folder, f"{MANIFEST} lacks the field {missing[0]!r}", expected)
    return values


def _agree(got: Any, want: Any) -> bool:
    if isinstance(got, list) and isinstance(want, list):
        return all(one in got for one in want)
    return want is None or (got == want and type(got) is type(want))


def _bytes(folder: Path, name: str, expected: Manifest) -> bytes:
    path = folder / name
    try:
        if name == MANIFEST:
            return read_small(path)
        if path.is_fifo():
            raise _error(folder, f"{name} is a pipe", expected)
        return path.read_bytes()
    except FileNotFoundError:
        raise _error(folder, f"{name} is missing", expected) from None
    except OSError as error:
        raise _error(folder, f"{name} cannot be read ({error.strerror})", expected) from error


def _error(folder: Path, what: str, expected: Manifest) -> EngineFileError:
    return EngineFileError(f"engine files {folder}: {what}; build them with {expected.command}")


def _replace(folder: Path, contents: dict[str, bytes]) -> None:
    """Replace `folder` with a folder of these files."""
    whole = _temporary(folder)
    for name, content in contents.items():
        (whole / name).write_bytes(content)
    if folder.exists():  # rename fails if the target is a folder that is not empty
        folder.rename(_temporary(folder))
    whole.rename(folder)


def _temporary(folder: Path) -> Path:
    path = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    path.chmod(0o755)  # mkdtemp gives access only to the owner
    return path


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Allow one writer at a time in the parent folder. The system releases the lock if the process is killed."""
    handle = os.open(folder.parent / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _clean_up(folder: Path) -> None:
    """Remove the temporary folders. The caller must hold the lock, so no other process is using them."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(leftover)
