"""The files of the project that another is made of, as a fingerprint that changes when one of them does."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from files import digest

ROOT = Path(__file__).resolve().parent.parent


@cache
def fingerprint(entries: tuple[str, ...], others: tuple[str, ...] = (), root: Path = ROOT) -> str:
    """Of the bytes of the entries, of all that they import, and of other files. Paths are relative to the project."""
    paths = sorted({*import_closure(entries, root), *others})
    contents = ((path, (root / path).read_bytes()) for path in paths)
    return digest(b"".join(f"{path} {len(content)}\n".encode() + content for path, content in contents))


def import_closure(entries: Iterable[str], root: Path = ROOT) -> set[str]:
    """The entries and the project's files that they import, directly or not, also inside functions."""
    found: set[str] = set()
    waiting = [*entries]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for name in _imported(root / path, path) for file in _files(name, root)]
    return found


def _imported(file: Path, path: str) -> Iterator[str]:
    """Dotted names; `from a import b` gives a and a.b."""
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
    """The file of a module, if it is the project's, and those of the packages that it lies in."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        for candidate in (f"{path}/__init__.py", f"{path}.py"):
            if (root / candidate).is_file():
                yield candidate
