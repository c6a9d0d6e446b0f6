"""Engine files: what torch.compile or TensorRT made, kept for the next start.

    <folder>/artifacts.bin    kernels and tuning choices, from torch.compiler.save_cache_artifacts(), without weights;
                              or TensorRT's engines, with them
    <folder>/manifest.json    for what, with what and for which device they were made

The artifacts hold code that will run: load only files that were built here or by someone you trust. The checksum
guards against damage, not against malice.
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

ARTIFACTS, MANIFEST = "artifacts.bin", "manifest.json"


class EngineFileError(ValueError):
    """Engine files that are missing, damaged or made for something else: what differs and the command that mends it."""


@dataclass(frozen=True)
class Manifest:
    """What engine files are made for and with, values of JSON by name.

    facts: must agree for the files to be of use; those that are expected as None may be anything, and of an expected
    list all must be in the one that is found. notes: for readers. command: what builds such files.
    """

    facts: Mapping[str, Any]
    command: str
    notes: Mapping[str, Any] = field(default_factory=dict)


def save(folder: Path, data: bytes, manifest: Manifest) -> None:
    """Write both files under a temporary name, then rename; the manifest gets size and checksum of the data.

    What was in `folder` is replaced once all is written. What killed runs left beside it is removed.
    Raises OSError with the path where the folder cannot be written.
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

    Raises EngineFileError with one sentence that names all that differs and the command that builds the files again.
    """
    if not folder.is_dir():
        raise _error(folder, "there is no such folder", expected)
    found = _parse(folder, _bytes(folder, MANIFEST, expected), expected)
    if different := [
        f"{name} is {found[name]!r}, expected {want!r}"
        for name, want in expected.facts.items()
        if not _agree(found[name], want)
    ]:
        raise _error(folder, ", ".join(different), expected)
    data = _bytes(folder, ARTIFACTS, expected)
    if len(data) != found["size"]:
        raise _error(folder, f"{ARTIFACTS} has {len(data)} bytes, expected {found['size']}", expected)
    if digest(data) != found["sha256"]:
        raise _error(folder, f"{ARTIFACTS} was altered, its SHA-256 is not that of {MANIFEST}", expected)
    return data


def _parse(folder: Path, content: bytes, expected: Manifest) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError:  # bytes that are no UTF-8 too
        raise _error(folder, f"{MANIFEST} is no JSON", expected) from None
    if not isinstance(values, dict):
        raise _error(folder, f"{MANIFEST} holds no object", expected)
    names = {*expected.facts, *expected.notes, "size", "sha256"}
    if unknown := sorted(values.keys() - names):
        raise _error(folder, f"{MANIFEST} has the unknown field {unknown[0]!r}", expected)
    if missing := sorted(names - values.keys()):
        raise _error(folder, f"{MANIFEST} lacks the field {missing[0]!r}", expected)
    return values


def _agree(got: Any, want: Any) -> bool:
    if isinstance(got, list) and isinstance(want, list):
        return all(one in got for one in want)
    return want is None or (got == want and type(got) is type(want))


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
