"""What preprocess.sh refuses, with one sentence: environments, interpreters and failures of pip."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toy_project import DONE, PYTHON, ROOT, make_project, make_venv, run, tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(tmp_path / "a folder's ü")


def sentence(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """Return the only line of a refusal."""
    assert done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()
    return line


def a_file(root: Path) -> str:
    (root / ".venv").write_text("")
    return ".venv is a file, or a link to a folder without bin/python, expected a folder: delete it"


def a_link(root: Path) -> str:
    (root / "mine").mkdir()
    (root / "mine" / "notes").write_text("")
    (root / ".venv").symlink_to("mine")
    return ".venv is a file, or a link to a folder without bin/python, expected a folder: delete it"


def no_pyvenv(root: Path) -> str:
    """Then .venv/bin/python would install into the interpreter's own folder."""
    make_venv(root)
    (root / ".venv" / "pyvenv.cfg").unlink()
    return f".venv/bin/python does not run as the Python of .venv, but of {sys.base_prefix}: delete .venv"


def no_start(root: Path) -> str:
    make_venv(root)
    (root / ".venv" / "bin" / "python").unlink()
    (root / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho no libpython >&2; exit 127\n")
    (root / ".venv" / "bin" / "python").chmod(0o755)
    return ".venv/bin/python does not run as the Python of .venv (no libpython): delete .venv"


@pytest.mark.parametrize("state", [a_file, a_link, no_pyvenv, no_start])
def test_what_may_be_the_users_is_not_replaced(state: Callable[[Path], str], root: Path) -> None:
    expected = state(root)
    before = tree(root)
    assert sentence(run(root)) == f"preprocess.sh: {expected}"
    assert tree(root) == before


def test_a_venv_of_another_python_is_kept(root: Path) -> None:
    make_venv(root)
    script = root / "build" / "environment.py"
    script.write_text(script.read_text().replace("(3, 13)", "(3, 9)"))
    before = tree(root)
    line = sentence(run(root), 2)
    assert line.startswith("got Python 3.")
    assert "/.venv/bin/python), expected 3.10 to 3.9: delete .venv and set PYTHON to another one" in line
    assert tree(root) == before
    shutil.rmtree(root / ".venv")
    assert "expected 3.10 to 3.9: set PYTHON (or CANNY2IMAGE_PYTHON) to another one" in sentence(run(root), 2)
    assert not (root / ".venv").exists()


@pytest.mark.parametrize("variable", ["PYTHON", "CANNY2IMAGE_PYTHON"])
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("/tmp", " (/tmp: Is a directory)"),
        ("/nope/python", " (/nope/python: No such file or directory)"),
        ("no-python", " (no-python: command not found)"),
        ("pyproject.toml", None),
        ("/bin/true", ""),
        ("/bin/false", ""),
        ("/bin/cat", None),
        ("/bin/echo", None),
    ],
)
def test_what_is_no_python_is_refused(variable: str, given: str, reason: str | None, root: Path) -> None:
    line = sentence(run(root, **{variable: given}))
    assert line.startswith(f"preprocess.sh: {variable}={given} does not run as a Python")
    assert reason is None or f"a Python{reason}: " in line
    assert "3.10 to 3.13" in line
    assert not (root / ".venv").exists()


def lack(root: Path, place: str) -> None:
    """Add a requirement that cannot be met to `place`: "dependencies" or the name of an extra."""
    text = (root / "pyproject.toml").read_text("utf-8").replace('"toy>=1"', '"pip>=1"')
    (root / "pyproject.toml").write_text(text.replace(f"\n{place} = [", f'\n{place} = ["no-such>=1", '), "utf-8")


def test_a_given_interpreter_that_lacks_something_is_refused(root: Path) -> None:
    lack(root, "dependencies")
    before = tree(root)
    line = sentence(run(root, "./preprocess.sh", "odd", CANNY2IMAGE_PYTHON=sys.executable))
    assert "lacks no-such>=1: install them there, or unset CANNY2IMAGE_PYTHON" in line
    assert tree(root) == before


def test_a_given_interpreter_may_lack_an_extra(root: Path) -> None:
    lack(root, "odd")
    done = run(root, "./preprocess.sh", "odd", CANNY2IMAGE_PYTHON=sys.executable)
    assert (done.returncode, done.stdout) == (0, f"{DONE}\n")
    assert "lacks no-such>=1, no-such-distribution>=1: the tests that need them are skipped" in done.stderr


def test_a_given_interpreter_without_pip(root: Path, tmp_path: Path) -> None:
    """`uv venv` creates such interpreters, and Debian ships them."""
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    make_venv(tmp_path, pip=False, toys=())
    line = sentence(run(root, CANNY2IMAGE_PYTHON=str(tmp_path / ".venv" / "bin" / "python")))
    assert "lacks pip, which is needed to read the requirements" in line


def test_an_unknown_extra_creates_nothing(root: Path) -> None:
    assert sentence(run(root, "./preprocess.sh", "devel"), 2) == "unknown extra 'devel': expected one of odd"
    assert not (root / ".venv").exists()


def test_without_a_network_the_sentence_follows_pips_error(root: Path) -> None:
    make_venv(root, toys=())
    done = run(root, "./preprocess.sh", "odd")
    assert done.returncode == 1
    assert "ERROR: No matching distribution found for no-such-distribution>=1" in done.stderr
    line = done.stderr.splitlines()[-1]
    assert "pip failed (its error is above), and .venv lacks toy>=1, no-such-distribution>=1: " in line
    assert "PIP_FIND_LINKS" in line


def test_pip_that_installs_elsewhere_is_noticed(root: Path, tmp_path: Path) -> None:
    make_venv(root, toys=())
    line = sentence(run(root, PIP_TARGET=str(tmp_path / "elsewhere")))
    assert "pip reported no error, but .venv lacks toy>=1: check that the settings of pip" in line


def test_a_venv_that_cannot_be_created_is_one_sentence(root: Path) -> None:
    """As in a read-only folder or on a full disk."""
    stub = root / "python"
    error = "Traceback (most recent call last):\n  a line\nOSError: [Errno 30] Read-only file system: '.venv'"
    stub.write_text(f'#!/bin/sh\n[ "$2" != venv ] || {{ echo "{error}" >&2; exit 1; }}\nexec "{PYTHON}" "$@"\n')
    stub.chmod(0o755)
    line = sentence(run(root, PYTHON=str(stub)))
    assert line == "preprocess.sh: .venv cannot be created: OSError: [Errno 30] Read-only file system: '.venv'"


def test_a_pip_that_cannot_be_installed_is_one_sentence(root: Path) -> None:
    (root / "ensurepip.py").write_text("raise OSError(28, 'No space left on device')\n")
    done = run(root)
    assert "pip cannot be installed into .venv (OSError: [Errno 28] No space left on device): " in sentence(done)
