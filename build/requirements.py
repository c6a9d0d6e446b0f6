"""Compares the requirements of pyproject.toml with the installed packages. Needs no package except pip."""

import csv
import importlib.metadata
import re
import shutil
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def run(arguments: list[str], in_venv: bool) -> int:
    """Run a command of build/environment.py and return its exit status.

    in_venv: count damaged packages as absent, and check the packages that the installed ones require. Other
    environments may be incomplete on purpose.
    """
    site = Path(sysconfig.get_path("purelib"))
    if arguments == ["--clean"]:
        clean(site)
        return 0
    damaged = {get_name(folder) for folder in find_damaged(site)} if in_venv else set[str]()
    try:
        lines = read_requirements(arguments)
        unmet = [line for line in lines if not is_fulfilled(line, damaged)]
        if in_venv:
            unmet += find_absent([line for line in lines if line not in unmet], damaged)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except ImportError:
        return 3
    if in_venv and get_version("pip", damaged) is None:
        return 3
    print("\n".join(unmet))
    return 0


def read_requirements(extras: list[str]) -> list[str]:
    """Return the requirements of the project and of these extras. Raise ValueError for an unknown extra."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        from pip._vendor import tomli as tomllib
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    if unknown := [extra for extra in extras if extra not in optional]:
        raise ValueError(f"unknown extra {unknown[0]!r}: expected one of {', '.join(optional)}")
    lines = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    return list(dict.fromkeys(lines))


def applies(line: str, extras: Iterable[str] = ()) -> bool:
    """Return whether the marker of a requirement includes this machine, with one of these extras or without any."""
    from pip._vendor.packaging.requirements import Requirement

    marker = Requirement(line).marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def is_fulfilled(line: str, damaged: Collection[str] = ()) -> bool:
    """Return whether an installed package meets the requirement `line`, or its marker excludes this machine."""
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.version import InvalidVersion

    if not applies(line):
        return True
    requirement = Requirement(line)
    version = get_version(requirement.name, damaged)
    try:
        return version is not None and requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def find_absent(lines: Iterable[str], damaged: Collection[str]) -> list[str]:
    """Return the requirements of the packages `lines`, and of those that they require, whose package is absent.

    The versions are left to pip: a user may override them.
    """
    from pip._vendor.packaging.requirements import Requirement

    absent: list[str] = []
    queue = [Requirement(line) for line in lines if applies(line)]
    seen = set()
    for requirement in queue:  # it grows
        key = canonical(requirement.name), *sorted(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        if get_version(requirement.name, damaged) is None:
            requirement.marker = None  # pip would evaluate it without the extra
            absent.append(str(requirement))
        else:
            needed = importlib.metadata.requires(requirement.name) or ()
            queue += [Requirement(line) for line in needed if applies(line, requirement.extras)]
    return absent


def get_version(name: str, damaged: Collection[str]) -> str | None:
    """Return the version of an installed package; None if it is absent or its metadata cannot be read."""
    if canonical(name) in damaged:
        return None
    try:
        return importlib.metadata.metadata(name)["Version"]
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError):
        return None


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def get_name(folder: Path) -> str:
    """Return the canonical name of the package that a .dist-info folder describes."""
    return canonical(folder.name.split("-")[0])


def find_damaged(site: Path) -> Iterator[Path]:
    """Yield the .dist-info folders of the packages that are not completely installed in the folder `site`."""
    return (folder for folder in site.glob("[!~]*.dist-info") if not is_complete(folder))


def is_complete(folder: Path) -> bool:
    """Return whether the installation of the package ended, and no file or folder of it at the top is gone.

    The contents of files are not compared.
    """
    try:
        metadata, record = ((folder / name).read_text(encoding="utf-8") for name in ("METADATA", "RECORD"))
        rows = [row[0] for row in csv.reader(record.splitlines()) if row]
    except (OSError, ValueError, csv.Error):
        return False
    files: dict[str, list[str]] = {}
    for row in rows:
        files.setdefault(row.split("/")[0], []).append(row)
    there = (
        any((folder.parent / row).exists() for row in paths)
        for top, paths in files.items()
        if top not in ("..", "__pycache__")
    )
    # Installers write INSTALLER after the package's files.
    return "\nVersion: " in metadata and (folder / "INSTALLER").is_file() and bool(rows) and all(there)


def clean(site: Path) -> None:
    """Remove what interrupted installations left in the folder `site`, and print it.

    pip renames what it replaces to ~ame, and can neither replace nor remove a package with damaged metadata.
    """
    for path in [*site.glob("~*"), *site.glob("*/~*"), *find_damaged(site)]:
        print(f"removing {path}, which an interrupted installation left")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
