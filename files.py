"""Files that a reader sees whole or not at all, and digests of what is in them."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


def check_writable(folder: Path) -> None:
    """Make `folder` and see that files can be written. Raises OSError, with the path and what to do, if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write the file, all of it or nothing. Raises OSError as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to, which takes its place at the end unless something is raised.

    The folder is made where it is missing. Raises OSError, with the path and what to do, where it cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def digest(content: bytes | str) -> str:
    """SHA-256 in hexadecimal, of text as UTF-8."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Read once per file, as long as its size and time stay."""
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
