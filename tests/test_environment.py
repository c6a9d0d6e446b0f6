"""build/environment.py: which requirements are unmet, which packages are damaged, which Pythons are refused."""

import ast
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from build import environment, requirements
from tests.toy_project import ROOT, install

PROJECT = """
[project]
dependencies = ["pip>=1", "numpy<1.0"]
[project.optional-dependencies]
odd = ["no-such-distribution>=1", "torch>=2", "numpy<1.0"]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pyproject.toml"
    path.write_text(PROJECT)
    monkeypatch.setattr(requirements, "PYPROJECT", path)
    return path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of packages on Python's path, with toy, which requires toydep."""
    folder = tmp_path / "site"
    install(folder, "toy", 'toydep>=1; python_version >= "3"')
    install(folder, "toydep", "toyopt; extra == 'more'")
    monkeypatch.syspath_prepend(folder)
    return folder


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
    core = requirements.read_requirements([])
    for extra in extras():
        lines = requirements.read_requirements([extra])
        assert len(lines) > len(core)
        for line in lines:
            requirements.is_fulfilled(line)  # raises for a line that pip cannot parse
    assert requirements.is_fulfilled("torch>=2") is True
    for here in (True, False):  # a requirement of other machines is not lacking
        marker = f"sys_platform {'==' if here else '!='} '{sys.platform}'"
        assert requirements.is_fulfilled(f"no-such-distribution>=1; {marker}") is not here


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("extra", "lacking"), [([], ["numpy<1.0"]), (["odd"], ["numpy<1.0", "no-such-distribution>=1"])]
)
def test_lacking_requirements_are_printed(
    extra: list[str], lacking: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert environment.main(extra) == 0
    assert capsys.readouterr().out.splitlines() == lacking


def test_a_missing_pyproject_is_one_sentence(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project.unlink()
    assert environment.main([]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("version", [(3, 9, 1), (3, 14, 0), (2, 7, 18)])
@pytest.mark.parametrize("in_venv", [True, False])
def test_another_python_is_refused(
    version: tuple[int, ...], in_venv: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(sys, "prefix", str(ROOT / ".venv") if in_venv else "/usr")
    assert environment.main([]) == 2
    got = capsys.readouterr().err
    assert f"got Python {version[0]}.{version[1]} ({sys.executable}), expected 3.10 to 3.13: " in got
    assert ("delete .venv and set PYTHON to" if in_venv else "set PYTHON (or CANNY2IMAGE_PYTHON) to") in got


def test_old_pythons_can_read_the_check_of_the_version() -> None:
    """Python 2.7 knows no annotations, no f-strings, no := and no characters outside ASCII."""
    tree = ast.parse((ROOT / "build" / "environment.py").read_text(encoding="ascii"), feature_version=(3, 4))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr | ast.Starred | ast.Nonlocal)
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
            assert not node.args.kwonlyargs
            assert not any(argument.annotation for argument in node.args.args)
    outside = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [alias.name for node in outside for alias in node.names] == ["os", "sys"]


def test_the_versions_are_those_of_pyproject() -> None:
    oldest, (major, minor) = environment.OLDEST, environment.NEWEST
    wanted = f'requires-python = ">={oldest[0]}.{oldest[1]},<{major}.{minor + 1}"'
    assert wanted in (ROOT / "pyproject.toml").read_text()


def test_complete_packages_are_kept(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "toy" / "__init__.py").write_text("# a user's change\n")
    assert not list(requirements.find_damaged(site))
    assert requirements.find_absent(["toy", "toydep"], set()) == []
    requirements.clean(site)
    assert capsys.readouterr().out == ""


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no files": lambda info: shutil.rmtree(info.parent / "toy"),
    "an empty folder": lambda info: (info.parent / "toy" / "__init__.py").unlink(),
    "no METADATA": lambda info: (info / "METADATA").unlink(),
    "an empty METADATA": lambda info: (info / "METADATA").write_text(""),
    "METADATA without a version": lambda info: (info / "METADATA").write_text("Name: toy\n"),
    "METADATA that is not text": lambda info: (info / "METADATA").write_bytes(b"Name: toy\nVersion: \xff\n"),
    "no RECORD": lambda info: (info / "RECORD").unlink(),
    "an empty RECORD": lambda info: (info / "RECORD").write_text(""),
    "no INSTALLER": lambda info: (info / "INSTALLER").unlink(),
    "an empty .dist-info": empty,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_package_counts_as_absent(
    damage: Callable[[Path], object], site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = site / "toy-1.0.dist-info"
    damage(folder)
    requirements.is_fulfilled("toy>=1")  # an interpreter outside .venv is not examined, but nothing may be raised
    assert list(requirements.find_damaged(site)) == [folder]
    assert not requirements.is_fulfilled("Toy>=1", {"toy"})
    requirements.clean(site)
    assert str(folder) in capsys.readouterr().out
    assert not folder.exists(), "pip could not replace the package"


@pytest.mark.parametrize("version", ["", "Version: \n", "Version: unknown\n", "Version: 0.9\n"])
def test_a_version_that_says_nothing_is_unmet(version: str, site: Path) -> None:
    (site / "toy-1.0.dist-info" / "METADATA").write_text("Name: toy\n" + version)
    assert not requirements.is_fulfilled("toy>=1")


def test_what_installed_packages_require_is_found(site: Path) -> None:
    assert requirements.find_absent(["toy", "toydep[more]"], set()) == ["toyopt"]
    shutil.rmtree(site / "toydep-1.0.dist-info")
    assert requirements.find_absent(["toy"], set()) == ["toydep>=1"]


def test_what_pip_renamed_is_removed(site: Path) -> None:
    for name in ("~oy", "~oy-1.0.dist-info", "toy/~lugin"):
        (site / name).mkdir()
        (site / name / "library.so").write_text("")
    (site / "~oy.py").write_text("")
    requirements.clean(site)
    kept = ["toy", "toy-1.0.dist-info", "toydep", "toydep-1.0.dist-info"]
    assert sorted(path.name for path in site.iterdir()) == kept
    assert [path.name for path in (site / "toy").iterdir()] == ["__init__.py"]
