"""Writing a file so that a reader sees all of it or none."""

import os
import tempfile
from pathlib import Path


def check_writable(folder: Path) -> None:
    """Make `folder` and see that files can be written. Raises OSError, with the path and what to do, if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name beside `path`, then rename; the folder is made where it is missing.

    Raises OSError, with the path and what to do, where the folder cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OSError:
    return OSError(f"{path} cannot be written ({error.strerror}); choose a folder that you may write to")
