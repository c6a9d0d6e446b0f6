"""Ctrl-C gives one line, also while a command is still importing, and other errors keep their traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import EXTRAS

ROOT = Path(__file__).resolve().parent.parent


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["build", "benchmarks"])
def test_the_packages_of_commands(module: str) -> None:
    done = run(f"import {module}; raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (-2, "stopped: nothing was written\n")


def test_compute_score_imports_it_first() -> None:
    imports = [line for line in (ROOT / "compute_score.py").read_text().splitlines() if line.startswith("import ")]
    assert imports[0] == "import commands"


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("serving.server", "orjson", " serve"),
        ("serving.page", "gradio", " web"),
        ("benchmarks.serving", "cv2", " dev serve"),
        ("compute_score", "cv2", ""),
    ],
)
def test_a_missing_package(module: str, missing: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{missing!r}] = None")
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    said = f"error: import of {missing} halted; None in sys.modules: run ./preprocess.sh{extra}, which installs what is"
    assert done.stderr == f"{said} missing\n"


def test_extras_and_commands_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for start, extras in EXTRAS.items():
        assert (ROOT / start.replace(".", "/")).is_dir() or (ROOT / f"{start.replace('.', '/')}.py").is_file()
        assert all(f"\n{extra} = [" in project for extra in extras.split())


@pytest.mark.parametrize("name", ["files.missing", "numpy.missing"])
def test_a_missing_module_of_what_is_there(name: str) -> None:
    done = run(f"import commands; import {name}")
    assert done.stderr.startswith("Traceback")


def test_other_errors() -> None:
    done = run("import commands; 1 / 0")
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
