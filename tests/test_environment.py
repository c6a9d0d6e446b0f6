import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from build import environment

ROOT = Path(__file__).resolve().parent.parent
LACKING = "no-such-distribution>=1"
PROJECT = """
[project]
dependencies = ["pip>=1", "numpy<1.0"]
[project.optional-dependencies]
odd = ["no-such-distribution>=1", "torch>=2"]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pyproject.toml"
    path.write_text(PROJECT)
    monkeypatch.setattr(environment, "PYPROJECT", path)
    return path


def extras() -> list[str]:
    text = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    return [line.split(" = ")[0] for line in text.splitlines() if " = [" in line]


def test_this_interpreter_fulfils_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert environment.main([]) == 0
    assert capsys.readouterr().out.split() == []


def test_unknown_extra_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert environment.main(["dev", "devel"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"unknown extra 'devel': expected one of {', '.join(extras())}\n"


def test_every_extra_parses() -> None:
    assert {"dev", "train", "web", "tensorrt", "tensorrt-rtx"} <= set(extras())
    core = environment.requirements([])
    for extra in extras():
        lines = environment.requirements([extra])
        assert len(lines) > len(core)
        for line in lines:
            environment.is_fulfilled(line)  # raises for a line that pip cannot parse
    assert environment.is_fulfilled("torch>=2") is True
    for here in (True, False):  # a requirement of other machines is not lacking
        marker = f"sys_platform {'==' if here else '!='} '{sys.platform}'"
        assert environment.is_fulfilled(f"no-such-distribution>=1; {marker}") is not here


@pytest.mark.parametrize(
    ("extra", "lacking"), [([], ["numpy<1.0"]), (["odd"], ["numpy<1.0", "no-such-distribution>=1"])]
)
def test_lacking_requirements_are_printed(
    project: Path, extra: list[str], lacking: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert environment.main(extra) == 1
    assert capsys.readouterr().out.splitlines() == lacking


@pytest.mark.parametrize("version", [(3, 9, 1), (3, 14, 0), (2, 7, 18)])
def test_another_python_is_refused(
    version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert environment.main([]) == 2
    assert f"got Python {version[0]}.{version[1]}, expected 3.10 to 3.13" in capsys.readouterr().err


def test_the_versions_are_those_of_pyproject() -> None:
    oldest, (major, minor) = environment.OLDEST, environment.NEWEST
    wanted = f'requires-python = ">={oldest[0]}.{oldest[1]},<{major}.{minor + 1}"'
    assert wanted in (ROOT / "pyproject.toml").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the files that preprocess.sh needs, and create a .venv whose interpreter logs its calls to `calls`."""
    root = tmp_path / "checkout"
    for name in ("build", "runtime"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("preprocess.sh", "pyproject.toml", "files.py", "reading.py"):
        shutil.copy(ROOT / name, root / name)
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return root


def preprocess(root: Path, *arguments: str, python: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run preprocess.sh without a package index and without GPUs."""
    offline = {"PIP_NO_INDEX": "1", "PYTHONDONTWRITEBYTECODE": "1", "CANNY2IMAGE_PYTHON": str(python or "")}
    offline["CUDA_VISIBLE_DEVICES"] = ""  # with a GPU it would build engines, but the project is incomplete here
    return subprocess.run(
        [root / "preprocess.sh", *arguments], env={**os.environ, **offline}, capture_output=True, text=True, check=False
    )


def tree(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*")}


def lack(root: Path, place: str) -> None:
    """Add a requirement that cannot be met to `place`: "dependencies" or the name of an extra."""
    text = (root / "pyproject.toml").read_text()
    assert f"\n{place} = [" in text
    (root / "pyproject.toml").write_text(text.replace(f"\n{place} = [", f'\n{place} = ["{LACKING}", ', 1))


@pytest.mark.parametrize("given", [False, True], ids=["in .venv", "CANNY2IMAGE_PYTHON"])
def test_preprocess_changes_nothing_where_all_is_there(checkout: Path, given: bool) -> None:
    before = tree(checkout)
    done = preprocess(checkout, python=Path(sys.executable) if given else None)
    assert (done.returncode, done.stderr) == (0, "")
    assert "engines: " in done.stdout
    assert tree(checkout) == before
    calls = checkout.parent / "calls"
    assert calls.exists() != given
    assert given or "pip" not in calls.read_text()


def test_preprocess_refuses_an_interpreter_that_lacks_something(checkout: Path) -> None:
    lack(checkout, "dependencies")
    before = tree(checkout)
    done = preprocess(checkout, "dev", python=Path(sys.executable))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"lacks {LACKING}" in line
    assert "install them there, or unset CANNY2IMAGE_PYTHON" in line
    assert tree(checkout) == before


def test_preprocess_goes_on_without_an_extra(checkout: Path) -> None:
    lack(checkout, "web")
    done = preprocess(checkout, "web", python=Path(sys.executable))
    assert done.returncode == 0
    assert LACKING in done.stderr
    assert "engines: " in done.stdout


def test_preprocess_refuses_an_unknown_extra(checkout: Path) -> None:
    done = preprocess(checkout, "devel")
    assert done.returncode == 2
    assert done.stderr.startswith("unknown extra 'devel': expected one of ")


def test_preprocess_names_what_an_interpreter_without_pip_lacks(checkout: Path, tmp_path: Path) -> None:
    """`uv venv` creates such interpreters, and Debian ships them."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    done = preprocess(checkout, python=tmp_path / "bare" / "bin" / "python")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert "lacks " in line
    assert "lacks :" not in line, "the message names nothing that is missing"


def test_make_passes_the_chosen_python_on() -> None:
    """If the Makefile defined PYTHON, make would export its own value instead of the caller's."""
    shown = subprocess.run(
        ["make", "-s", "--eval", "show:;@echo $$PYTHON", "show"],
        cwd=ROOT, env={**os.environ, "PYTHON": "python3.12"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == "python3.12\n"
