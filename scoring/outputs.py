"""Checks, before any work, that results do not overwrite what is read."""

from collections.abc import Iterable
from pathlib import Path


def check_not_read(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise ValueError if an output is the same file as an input, also through links."""
    read = [*inputs]
    for output in outputs:
        if same := [one for one in read if _is_same(output, one)]:
            raise ValueError(f"--out: {output} would overwrite the input {same[0]}: choose another --out")


def check_apart(out: Path, pictures: Path) -> None:
    """Raise ValueError if the folder of results is, contains or lies in the folder of pictures, also through links."""
    if _contains(out, pictures) or _contains(pictures, out):
        raise ValueError(
            f"--out: {out} is, contains or lies in the folder of the pictures, {pictures}: choose a folder apart from "
            "it, so that no picture is overwritten and no result is read as a picture"
        )


def _contains(folder: Path, path: Path) -> bool:
    """Return whether `folder` is `path` or a folder above it."""
    resolved = path.resolve()
    return any(_is_same(folder, one) for one in (resolved, *resolved.parents))


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
