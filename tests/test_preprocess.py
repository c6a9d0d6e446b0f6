"""preprocess.sh with toy packages: creation and repair of .venv, interruption, two calls at once."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pip
import pytest

from tests.toy_project import DONE, ROOT, SITE, environment, install, make_project, make_venv, run, tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(tmp_path / "a folder's ü")


def test_nothing_changes_where_all_is_there(root: Path) -> None:
    make_venv(root)
    before = tree(root)
    done = run(root)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{DONE}\n", "")
    assert tree(root) == before


def test_the_real_project_with_this_interpreter(tmp_path: Path) -> None:
    for name in ("build", "runtime"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("preprocess.sh", "pyproject.toml", "commands.py", "files.py", "reading.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    before = tree(tmp_path)
    # With a GPU it would build engines, but the project is incomplete here.
    done = run(tmp_path, CANNY2IMAGE_PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "engines: " in done.stdout
    assert tree(tmp_path) == before


def nothing(root: Path) -> None:
    pass


def half_created(root: Path) -> None:
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "pyvenv.cfg").write_text("home")


def interpreter_removed(root: Path) -> None:
    make_venv(root)
    (root / ".venv" / "bin" / "python").unlink()
    (root / ".venv" / "bin" / "python").symlink_to(root / "removed")


def pip_missing(root: Path) -> None:
    make_venv(root, pip=False)


def pip_without_metadata(root: Path) -> None:
    """As after kill -9: what the check needs may be there."""
    site = make_venv(root, pip=False)
    (site / "pip").symlink_to(Path(pip.__file__).parent)


def pip_damaged(root: Path) -> None:
    install(make_venv(root, pip=False), "pip")  # a package without contents


@pytest.mark.parametrize(
    "state", [nothing, half_created, interpreter_removed, pip_missing, pip_without_metadata, pip_damaged]
)
def test_an_interrupted_creation_is_repaired(state: Callable[[Path], None], root: Path) -> None:
    state(root)
    text = (root / "pyproject.toml").read_text("utf-8").replace('"toy>=1"', '"pip>=1"')
    (root / "pyproject.toml").write_text(text, "utf-8")
    done = run(root)
    assert (done.returncode, done.stdout) == (0, f"preprocess.sh: installing pip into .venv\n{DONE}\n"), done.stderr
    again = "preprocess.sh: creating .venv again, because .venv/bin/python is missing\n"
    assert done.stderr == (again if state in (half_created, interpreter_removed) else "")
    assert not (root / SITE / "pip").exists(), "what was left of pip is still there"
    before = tree(root)
    assert run(root).stdout == f"{DONE}\n"
    assert tree(root) == before


def test_an_interrupted_installation_is_repaired(root: Path) -> None:
    """An upgrade of toydep was interrupted. The settings of pip are those for another environment."""
    site = make_venv(root)
    (site / "toydep").rename(site / "~oydep")
    done = run(root, PIP_USER="1", PIP_REQUIRE_VIRTUALENV="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("preprocess.sh: installing toydep into .venv\nremoving ")
    assert {"toy", "toydep"} <= {path.name for path in site.iterdir()}
    assert not list(site.glob("~*"))
    before = tree(root)
    assert run(root).stdout == f"{DONE}\n"
    assert tree(root) == before


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["./preprocess.sh"], cwd=root, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", start_new_session=True,
    )  # fmt: skip


def test_ctrl_c_leaves_a_sentence_and_no_traceback(root: Path) -> None:
    (root / "ensurepip.py").write_text("import time\nopen('started', 'w').close()\ntime.sleep(60)\n")
    with start(root) as process:
        while not (root / "started").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate()
    assert process.returncode == 130
    assert (out, error) == (
        "preprocess.sh: installing pip into .venv\n",
        "preprocess.sh: stopped: run it again to go on\n",
    )


def test_a_second_call_waits_for_the_first(root: Path) -> None:
    make_venv(root)
    with (root / "preprocess.sh").open() as script:
        fcntl.flock(script, fcntl.LOCK_EX)
        with start(root) as process:
            assert process.stderr
            line = process.stderr.readline()
            assert process.poll() is None
            fcntl.flock(script, fcntl.LOCK_UN)
            out, _ = process.communicate()
    assert line == "preprocess.sh: waiting for another preprocess.sh in this folder to end\n"
    assert (process.returncode, out) == (0, f"{DONE}\n")
