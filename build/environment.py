"""Lists the requirements of pyproject.toml that this interpreter does not meet. Needs no package except pip.

    python build/environment.py [extra ...]     prints the unmet requirements, one per line

The exit status is 0 if all requirements are met, 1 if some are not, and 2 if Python's version is not supported, an
extra is unknown or pip is missing.
"""

import importlib.metadata
import sys
from pathlib import Path

OLDEST, NEWEST = (3, 10), (3, 13)
PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(extras: list[str]) -> list[str]:
    """Return the requirements of the project and of these extras. Raise ValueError for an unknown extra."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        from pip._vendor import tomli as tomllib
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    optional = project["optional-dependencies"]
    if unknown := [extra for extra in extras if extra not in optional]:
        raise ValueError(f"unknown extra {unknown[0]!r}: expected one of {', '.join(optional)}")
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]


def is_fulfilled(line: str) -> bool:
    """Return whether an installed package meets the requirement `line`, or its marker excludes this machine."""
    from pip._vendor.packaging.requirements import Requirement

    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate():
        return True
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def main(extras: list[str]) -> int:
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        got, oldest, newest = (".".join(map(str, v[:2])) for v in (sys.version_info, OLDEST, NEWEST))
        what = f"got Python {got}, expected {oldest} to {newest}"
        print(f"{what}: set PYTHON (or CANNY2IMAGE_PYTHON) to another one, such as python3.12", file=sys.stderr)
        return 2
    try:
        lacking = [line for line in requirements(extras) if not is_fulfilled(line)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError:
        print(
            f"{sys.executable} lacks pip, which is needed to read the requirements: run it with -m ensurepip",
            file=sys.stderr,
        )
        return 2
    print("\n".join(lacking))
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
