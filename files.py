"""Atomic file writes, locks against a second writer, and SHA-256 digests."""

import errno
import fcntl
import hashlib
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

BLOCK = 4096  # bytes; a full disk often still accepts an empty file
FOLDER = "a file is in its place or above it: choose another folder"
FREE = "free some space there, or choose another disk"
REMEDIES = {
    errno.ENOSPC: FREE,
    errno.EDQUOT: FREE,
    errno.ENOTDIR: FOLDER,
    errno.EEXIST: FOLDER,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose a path without links to themselves",
}
TEMPORARY = r"[a-z0-9_]{8}\.tmp"  # end of a temporary file's name


class LockedError(OSError):
    """Another process holds a lock."""


def check_writable(folder: Path) -> None:
    """Create `folder` if it is missing. Raises OSError, with path and remedy, if files cannot be written in it."""
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(BLOCK))


def check_file(path: Path) -> None:
    """Create the folder of `path` if it is missing. Raises OSError if `replacing(path)` would."""
    with _explained(path), _temporary(path) as (handle, _):
        os.write(handle, bytes(BLOCK))


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically. Raises OSError like `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to `path`; at the end rename it to `path`, or delete it if the caller raised.

    Creates the folder if it is missing, and deletes the temporary files that killed writers of `path` left behind.
    Any OSError, here or in the caller's block, becomes an OSError with the path and what to do.
    """
    with _explained(path), _temporary(path) as (handle, temporary):
        yield temporary
        temporary.chmod(0o644)  # mkstemp's files are accessible to their owner only
        # Some file systems report a full disk only now, and without this a power failure could leave the new name with
        # none of the content. The folder needs none: the old file and the new one are both whole.
        os.fsync(handle)
        os.replace(temporary, path)


@contextmanager
def locked(file: Path, otherwise: str) -> Iterator[None]:
    """Hold the lock `file` within the block; it exists only meanwhile. Whatever a killed process leaves locks nothing.

    otherwise: what to do instead of waiting. Raises LockedError at once if another process holds the lock, and OSError
    if the file cannot be written. A file system without locks is logged, and the block runs without one.
    """
    while (handle := _lock(file, otherwise)) is None:
        pass
    try:
        with _explained(file):
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        file.unlink(missing_ok=True)  # before the release: whoever waits for this file sees that it is gone
        os.close(handle)


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files for `path`; those that no process has locked are deleted when `path` is written."""
    prefix = f".{path.name}."
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    return [path.parent / name for name in names if re.fullmatch(re.escape(prefix) + TEMPORARY, name)]


def digest(content: bytes | str) -> str:
    """Return the SHA-256 in hexadecimal; text is encoded as UTF-8."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Cached for as long as size and modification time stay the same."""
    status = path.stat()
    return _file_digest(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _file_digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        whole = hashlib.sha256()
        while chunk := file.read(1 << 22):
            whole.update(chunk)
    return whole.hexdigest()


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[int, Path]]:
    """Yield handle and path of an empty file next to `path`; delete it at the end if it still has that name.

    The file is locked meanwhile, so that other writers of `path` know that it is in use.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or pipe"
        raise OSError(f"{path} cannot be written (it is {kind}); choose the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with suppress(OSError):  # a file system without locks, where `_remove_leftovers` deletes nothing
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:  # else another writer took it for a leftover before it was locked
                yield handle, Path(name)
                return
        finally:
            Path(name).unlink(missing_ok=True)
            os.close(handle)


def _remove_leftovers(path: Path) -> None:
    """Delete the temporary files for `path` that no process has locked."""
    for leftover in leftovers(path):
        with suppress(OSError):  # in use, gone meanwhile, another user's, or on a file system without locks
            handle = os.open(leftover, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
            finally:
                os.close(handle)


def _lock(file: Path, otherwise: str) -> int | None:
    """Return the handle of the locked file, or None if the file was removed meanwhile. Raises like `locked`."""
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, BLOCK).decode(errors="replace") or "another process"
        os.close(handle)
        raise LockedError(f"{file} is locked by {holder}: wait until that has ended, or {otherwise}") from None
    except OSError as error:
        log.warning("%s cannot be locked (%s): start nothing else that writes there", file, error.strerror)
        return handle
    with suppress(FileNotFoundError):
        if os.path.samestat(file.stat(), os.fstat(handle)):
            return handle
    os.close(handle)
    return None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Add the path and what to do to an OSError of the block, unless the message has them already."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        remedy = REMEDIES.get(error.errno, "choose a folder that you may write to")
        reason = os.strerror(errno.ENOTDIR) if error.errno == errno.EEXIST else error.strerror
        raise OSError(f"{path} cannot be written ({reason}); {remedy}") from error
