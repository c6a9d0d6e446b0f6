"""The Makefile and preprocess.sh with paths and variables of the caller that need care."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.toy_project import ROOT, SITE, make_project, make_venv, run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_project(tmp_path / 'a folder\'s "ü" $HOME')
    make_venv(root)
    (tmp_path / "noise.sh").write_text("echo noise; cd /\n")
    for name in ("build.py", "importlib.py", "toy.py", "encodings.py"):
        (tmp_path / "other" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "other" / name).write_text("raise SystemExit('the wrong file')\n")
    (tmp_path / "other" / "toydep-0.1.dist-info").mkdir()
    return root


VARIABLES = {
    "PYTHONSAFEPATH": "1",
    "PYTHONPATH": "{parent}/other",
    "PYTHONHOME": "/nonexistent",
    "PYTHONDONTWRITEBYTECODE": "",
    "BASH_ENV": "{parent}/noise.sh",
    "CDPATH": "{parent}/other",
    "IFS": "/",
    "LC_ALL": "C",
    "SHELLOPTS": "noglob:nounset:xtrace",
    "POSIXLY_CORRECT": "1",
    "VIRTUAL_ENV": "/nonexistent",
}


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_of_the_caller(name: str, root: Path) -> None:
    value = VARIABLES[name].format(parent=root.parent)
    done = run(root, "make", "-s", "score", "ARGS=--prompt 'two words' x", **{name: value})
    ignored = [f"preprocess.sh: ignoring {name}={value}, because it changes where Python finds packages"]
    assert done.stderr.splitlines() == (ignored if name in ("PYTHONSAFEPATH", "PYTHONPATH", "PYTHONHOME") else [])
    python = root / ".venv" / "bin" / "python"
    assert done.stdout == f"engines: toy\nscore ['--prompt', 'two words', 'x'] {python}\n"


@pytest.mark.parametrize("on_the_command_line", [False, True])
def test_a_given_interpreter_with_a_space_in_its_path(on_the_command_line: bool, root: Path) -> None:
    (root.parent / "my env").symlink_to(root / ".venv")
    python = f"{root.parent}/my env/bin/python"
    given = {"CANNY2IMAGE_PYTHON": python}
    arguments = [f"CANNY2IMAGE_PYTHON={python}"] if on_the_command_line else []
    done = run(root, "make", "-s", *arguments, "score", **({} if on_the_command_line else given))
    assert done.stdout == f"engines: toy\nscore [] {python}\n", done.stderr


def test_a_given_interpreter_keeps_its_pythonpath(root: Path) -> None:
    folder = root.parent / "modules"
    folder.mkdir()
    for name in ("toy", "toy-1.0.dist-info"):
        (root / SITE / name).rename(folder / name)
    (root / "compute_score.py").write_text("import toy\nprint(toy.__file__)\n")
    python = str(root / ".venv" / "bin" / "python")
    done = run(root, "make", "-s", "score", CANNY2IMAGE_PYTHON=python, PYTHONPATH=str(folder))
    assert done.stdout == f"engines: toy\n{folder}/toy/__init__.py\n", done.stderr


def test_targets_never_run_at_once(root: Path) -> None:
    text = (root / "pyproject.toml").read_text("utf-8")
    (root / "pyproject.toml").write_text(
        text + "dev = []\ntrain = []\nweb = []\nserve = []\ntensorrt-rtx = []\n", "utf-8"
    )
    (root / "compute_score.py").write_text("import time\ntime.sleep(1)\nprint('score')\n")
    done = run(root.parent, "make", "-s", "-j4", "-C", root.name, "score", "lint")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("make: ")]
    assert lines[:3] == ["engines: toy", "score", "engines: toy"], "lint did not wait for score"


@pytest.mark.parametrize(("target", "extra", "module"), [("demo", "web", "page"), ("serve", "serve", "server")])
def test_a_target_installs_its_extra(target: str, extra: str, module: str, root: Path) -> None:
    text = (root / "pyproject.toml").read_text("utf-8")
    (root / "pyproject.toml").write_text(text + f'{extra} = ["no-such-package>=1"]\n', "utf-8")
    (root / "serving").mkdir()
    (root / "serving" / f"{module}.py").write_text("import sys\nprint(sys.argv[1:])\n")
    assert "no-such-package" in run(root, "make", "-s", target).stderr
    (root / "pyproject.toml").write_text(text + f"{extra} = []\n", "utf-8")
    assert run(root, "make", "-s", target, "ARGS=--port 0").stdout == "engines: toy\n['--port', '0']\n"


def test_the_tests_of_the_page_alone(root: Path) -> None:
    text = (root / "pyproject.toml").read_text("utf-8")
    (root / "tests").mkdir()
    for name in ("test_other.py", "test_page.py", "test_page_actions.py"):
        (root / "tests" / name).touch()
    (root / "pytest.py").write_text("import sys\nprint(*sys.argv[1:])\n")
    (root / "pyproject.toml").write_text(text + 'dev = []\nweb = ["no-such-package>=1"]\n', "utf-8")
    assert "no-such-package" in run(root, "make", "-s", "test-web").stderr
    (root / "pyproject.toml").write_text(text + "dev = []\nweb = []\n", "utf-8")
    done = run(root, "make", "-s", "test-web", "ARGS=-x")
    assert done.stdout == "engines: toy\ntests/test_page.py tests/test_page_actions.py -x\n"


@pytest.mark.parametrize("command", ["links/setup", "./links/setup", "{root}/preprocess.sh"])
def test_preprocess_from_another_folder(command: str, root: Path) -> None:
    (root.parent / "links").mkdir()
    (root.parent / "links" / "setup").symlink_to(root / "preprocess.sh")
    elsewhere = root.parent / "other"
    (elsewhere / "links").mkdir()
    done = run(root.parent, command.format(root=root), CDPATH=str(elsewhere))
    assert (done.stdout, done.stderr) == ("engines: toy\n", "")


def test_make_passes_the_chosen_python_on() -> None:
    """If the Makefile defined PYTHON, make would export its own value instead of the caller's."""
    shown = subprocess.run(
        ["make", "-s", "--eval", "show:;@echo $$PYTHON", "show"],
        cwd=ROOT, env={**os.environ, "PYTHON": "python3.12"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == "python3.12\n"
