"""Saves and loads engine files: the output of Inductor or TensorRT.

    <folder>/engines.bin    lines of JSON with the model, the software and the device that the engines were built for
                            (the manifest; `head` shows it), an empty line, and the artifacts by name: per stage,
                            Inductor's code, without weights, or a serialized TensorRT engine, with weights; and what
                            Inductor's code runs: `kernel/...` of our own ops, and `library/...`

One file, because a file can be replaced atomically on every file system, and two files or a folder cannot.
The artifacts contain code that will be executed: load only files that you or someone you trust built. The checksum
detects damage, not tampering.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from files import digest, replacing
from reading import parse_object, shown

FILE = "engines.bin"
KERNELS = "kernels.bin"  # beside engines whose kernels are compiled on the machine that runs them
REPLACED = (KERNELS, "artifacts.bin", "manifest.json")  # belong to earlier engines; the last two to earlier versions


class EngineFileError(ValueError):
    """Engine files are missing, damaged or built for something else; the message states how to rebuild them."""

    def __init__(self, reason: str, command: str = "") -> None:
        super().__init__(f"{reason}; build them with {command}" if command else reason)
        self.reason = reason


@dataclass(frozen=True)
class Manifest:
    """The facts that engine files depend on, as JSON values by name.

    facts: must match for the files to be usable. An expected None matches any value; an expected list must be a subset
    of the list in the file. notes: for people, not compared. command: the command that builds such files.
    """

    facts: Mapping[str, Any]
    command: str
    notes: Mapping[str, Any] = field(default_factory=dict)


def save_stages(folder: Path, artifacts: Mapping[str, bytes], manifest: Manifest) -> None:
    """Write the manifest and the artifacts, by stage. Raise like `save`."""
    save(folder, pack(artifacts), manifest)


def read_stages(folder: Path, expected: Manifest, stages: Iterable[str]) -> dict[str, bytes]:
    """Return the artifacts by stage. Raise EngineFileError like `read`, or if one of `stages` is missing."""
    try:
        found = safetensors.numpy.load(read(folder, expected))
    except SafetensorError as error:
        raise _error(folder, f"{FILE} holds no engines", expected) from error
    if missing := [stage for stage in stages if stage not in found]:
        raise _error(folder, f"{FILE} lacks {missing[0]}", expected)
    return {name: values.tobytes() for name, values in found.items()}


def pack(artifacts: Mapping[str, bytes]) -> bytes:
    return safetensors.numpy.save({name: np.frombuffer(data, np.uint8) for name, data in artifacts.items()})


def save(folder: Path, data: bytes, manifest: Manifest) -> None:
    """Write the manifest, the size and checksum of the data, and the data, atomically. Earlier engines are replaced.

    Raise OSError with the path and what to do if the file cannot be written.
    """
    values = {**manifest.facts, **manifest.notes, "size": len(data), "sha256": digest(data)}
    with replacing(folder / FILE) as temporary, temporary.open("wb") as file:
        file.write(json.dumps(values, indent=2).encode() + b"\n\n")
        file.write(data)
    for name in REPLACED:
        (folder / name).unlink(missing_ok=True)


def read(folder: Path, expected: Manifest) -> bytes:
    """Return the artifacts. Raise EngineFileError if the file is missing, damaged or does not match `expected`.

    The error lists all facts that differ and states the command that builds the engines.
    """
    if not folder.is_dir():
        raise _error(folder, "the folder does not exist", expected)
    if (folder / FILE).is_fifo():
        raise _error(folder, f"{FILE} is a pipe", expected)  # which might never end
    try:
        with (folder / FILE).open("rb") as file:
            found = _check(folder, _manifest_of(file), expected)
            data = file.read()  # of the same file as the manifest, whoever replaces it meanwhile
    except FileNotFoundError:
        raise _error(folder, f"{FILE} is missing", expected) from None
    except OSError as error:
        raise _error(folder, f"{FILE} cannot be read ({error.strerror})", expected) from error
    if len(data) != found["size"]:
        raise _error(folder, f"{FILE} has {len(data)} bytes of artifacts, expected {shown(found['size'])}", expected)
    if digest(data) != found["sha256"]:
        raise _error(folder, f"{FILE} is damaged: the SHA-256 of its artifacts differs from its manifest", expected)
    return data


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest, not compared with anything. Raise OSError or ValueError if there is none."""
    with (folder / FILE).open("rb") as file:
        return parse_object(_manifest_of(file))


def _check(folder: Path, content: bytes, expected: Manifest) -> dict[str, Any]:
    """Return the manifest. Raise EngineFileError if it is damaged or does not match `expected`."""
    found = _parse(folder, content, expected)
    if different := [
        f"{name} is {shown(found[name])}, expected {shown(want)}"
        for name, want in expected.facts.items()
        if not _agree(found[name], want)
    ]:
        raise _error(folder, ", ".join(different), expected)
    return found


def _parse(folder: Path, content: bytes, expected: Manifest) -> dict[str, Any]:
    try:
        values = parse_object(content)
    except ValueError as error:
        raise _error(folder, f"the manifest of {FILE} {error}", expected) from None
    names = {*expected.facts, *expected.notes, "size", "sha256"}
    if unknown := sorted(values.keys() - names):
        raise _error(folder, f"the manifest of {FILE} has the unknown field {shown(unknown[0])}", expected)
    if missing := sorted(names - values.keys()):
        raise _error(folder, f"the manifest of {FILE} lacks the field {missing[0]!r}", expected)
    return values


def _agree(got: Any, want: Any) -> bool:
    if isinstance(got, list) and isinstance(want, list):
        return all(one in got for one in want)
    return want is None or (got == want and type(got) is type(want))


def _manifest_of(file: BinaryIO) -> bytes:
    lines: Iterator[bytes] = takewhile(lambda line: line.strip(), file)  # up to the empty line, which is read too
    return b"".join(lines)


def _error(folder: Path, what: str, expected: Manifest) -> EngineFileError:
    return EngineFileError(f"engine files {folder}: {what}", expected.command)
