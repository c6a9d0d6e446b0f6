"""A project with preprocess.sh and the Makefile whose packages are toys: its set-up takes a second and no network."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pip

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "preprocess.sh",
    "Makefile",
    "commands.py",
    "build/__init__.py",
    "build/environment.py",
    "build/requirements.py",
)
DONE = "engines: toy"  # what its `python -m build` prints
PYPROJECT = """# ü
[project]
dependencies = ["toy>=1"]
[project.optional-dependencies]
odd = ["no-such-distribution>=1"]
"""
PYTHON = Path(sys.executable).resolve()  # not the one of a virtual environment
PIP = Path(pip.__file__).parent.parent
SITE = f".venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
# Found before the real one, which takes seconds.
ENSUREPIP = f"""
import sysconfig
open(sysconfig.get_path("purelib") + "/pip.pth", "w").write({str(PIP)!r})
"""


def make_project(root: Path) -> Path:
    """Create the project in the folder `root`, without .venv and with the wheels toy and toydep, which toy requires."""
    (root / "build").mkdir(parents=True)
    for file in FILES:
        shutil.copy(ROOT / file, root / file)
    (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (root / "build" / "__main__.py").write_text(f"print({DONE!r})\n")
    (root / "compute_score.py").write_text("import sys, build\nprint('score', sys.argv[1:], sys.executable)\n")
    (root / "ensurepip.py").write_text(ENSUREPIP)
    (root / "wheels").mkdir()
    for name, requires in (("toy", "toydep"), ("toydep", "")):
        with zipfile.ZipFile(root / "wheels" / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            for path, text in contents(name, requires).items():
                wheel.writestr(path, text)
    return root


def contents(name: str, requires: str) -> dict[str, str]:
    """Return path -> text of a wheel's files."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + f"Requires-Dist: {requires}\n" * bool(requires)
    about = {"METADATA": metadata, "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    files = {f"{name}/__init__.py": "", **{f"{name}-1.0.dist-info/{key}": text for key, text in about.items()}}
    return {**files, f"{name}-1.0.dist-info/RECORD": "".join(f"{path},,\n" for path in files)}


def make_venv(root: Path, pip: bool = True, toys: Sequence[str] = ("toy", "toydep")) -> Path:
    """Create .venv with these packages installed, and with the pip of this environment; return its site-packages."""
    site = root / SITE
    site.mkdir(parents=True)
    (root / ".venv" / "bin").mkdir()
    (root / ".venv" / "bin" / "python").symlink_to(PYTHON)
    (root / ".venv" / "pyvenv.cfg").write_text(f"home = {PYTHON.parent}\ninclude-system-site-packages = false\n")
    if pip:
        (site / "pip.pth").write_text(str(PIP))
    for name in toys:
        install(site, name, "toydep" if name == "toy" else "")
    return site


def install(site: Path, name: str, requires: str = "") -> Path:
    """Install a toy package as pip does; return its .dist-info folder."""
    folder = site / f"{name}-1.0.dist-info"
    for path, text in {**contents(name, requires), f"{folder.name}/INSTALLER": "pip\n"}.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    return folder


def environment(root: Path, **variables: str) -> dict[str, str]:
    """Return the variables for a run without a package index and without what could change the set-up."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "PYTHON", "CANNY2IMAGE", "ARGS"))
    }
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": (root / "wheels").as_uri()}
    return {**kept, **offline, "PYTHONDONTWRITEBYTECODE": "1", "PYTHON": str(PYTHON), **variables}


def run(root: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command, by default ./preprocess.sh, in the project's folder."""
    return subprocess.run(
        command or ["./preprocess.sh"], cwd=root, env=environment(root, **variables), capture_output=True,
        encoding="utf-8", check=False,
    )  # fmt: skip


def tree(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_mtime_ns for path in root.rglob("*")}
