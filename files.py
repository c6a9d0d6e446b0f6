"""Atomic file writes and SHA-256 digests."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


def check_writable(folder: Path) -> None:
    """Create `folder` if it is missing. Raises OSError, with the path, if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically. Raises OSError like `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to `path`; at the end rename it to `path`, or delete it if the caller raised.

    Creates the folder if it is missing. Any OSError, here or in the caller's block, becomes an OSError with
    the path and what to do.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)  # mkstemp's files are accessible to their owner only
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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


def _unwritable(path: Path, error: OSError) -> OSError:
    return OSError(f"{path} cannot be written ({error.strerror}); choose a folder that you may write to")
