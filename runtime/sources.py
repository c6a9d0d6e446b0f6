"""Computes a fingerprint of project files and everything that they import; it changes when one of the files changes."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from files import digest

ROOT = Path(__file__).resolve().parent.parent


@cache
def fingerprint(entries: tuple[str, ...], others: tuple[str, ...] = (), root: Path = ROOT) -> str:
    """Return a digest of the entries, the project files that they import, and the other files.

    Paths are relative to `root`. The result is cached: later changes of the files have no effect in this process.
    """
    paths = sorted({*import_closure(entries, root), *others})
    contents = ((path, (root / path).read_bytes()) for path in paths)
    return digest(b"".join(f"{path} {len(content)}\n".encode() + content for path, content in contents))


def import_closure(entries: Iterable[str], root: Path = ROOT) -> set[str]:
    """Return the entries and the project's files that they import, directly or indirectly, even inside functions."""
    found: set[str] = set()
    waiting = [*entries]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for name in _imported(root / path, path) for file in _files(name, root)]
    return found


def _imported(file: Path, path: str) -> Iterator[str]:
    """Yield the dotted names that the file imports; `from a import b` yields a and a.b."""
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _files(name: str, root: Path) -> Iterator[str]:
    """Yield the module's file and those of the packages that contain it, if they are in the project."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        for candidate in (f"{path}/__init__.py", f"{path}.py"):
            if (root / candidate).is_file():
                yield candidate
