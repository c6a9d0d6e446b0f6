"""Fingerprints of the sources of base pictures and engines: the files and everything that they import."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import cldm.base_pictures
import cldm.engine_files
from runtime.sources import ROOT, fingerprint, import_closure

OURS = ("build", "cldm", "ldm", "plugins", "runtime", "scoring")


@pytest.mark.parametrize("entries", [cldm.base_pictures.SOURCES, *cldm.engine_files.SOURCES.values()])
def test_all_that_python_imports_is_in_the_closure(entries: tuple[str, ...]) -> None:
    names = ", ".join(entry.removesuffix(".py").replace("/", ".") for entry in entries if "plugins/layers" not in entry)
    code = f"import sys, {names}; print(*(n for n in sys.modules if n.split('.')[0] in {OURS}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name.replace(".", "/") + ".py" for name in done.stdout.split() if "." in name}
    packages = {f"{file.removesuffix('.py')}/__init__.py" for file in imported}
    closure = import_closure(entries)
    assert len(imported) > 10
    assert imported <= closure | {file.replace("/__init__.py", ".py") for file in packages & closure}
    assert all((ROOT / file).is_file() for file in closure)


def test_the_norm_is_a_source_of_everything() -> None:
    for entries in (cldm.base_pictures.SOURCES, *cldm.engine_files.SOURCES.values()):
        assert "ldm/norm.py" in import_closure(entries)
    files = {str(file.relative_to(ROOT)) for ending in ("cu", "cuh") for file in ROOT.glob(f"plugins/**/*.{ending}")}
    assert {*cldm.engine_files.CUDA_SOURCES} == files


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "__init__.py").write_text("")
    (tmp_path / "a" / "b.py").write_text("import os\nfrom . import c\n")
    (tmp_path / "a" / "c.py").write_text("def f():\n    from a.d import x\n")
    (tmp_path / "a" / "d.py").write_text("import a.b\nx = 1\n")
    (tmp_path / "a" / "e.py").write_text("")
    (tmp_path / "k.cu").write_text("kernel")
    return tmp_path


def test_the_closure_follows_every_form_of_import(project: Path) -> None:
    assert import_closure(("a/b.py",), project) == {"a/__init__.py", "a/b.py", "a/c.py", "a/d.py"}


@pytest.mark.parametrize("changed", ["a/__init__.py", "a/b.py", "a/c.py", "a/d.py", "k.cu"])
def test_a_change_of_any_byte_is_a_change(project: Path, changed: str) -> None:
    before = fingerprint(("a/b.py",), ("k.cu",), project)
    fingerprint.cache_clear()
    assert fingerprint(("a/b.py",), ("k.cu",), project) == before
    (project / changed).write_text((project / changed).read_text() + "# a comment\n")
    fingerprint.cache_clear()
    assert fingerprint(("a/b.py",), ("k.cu",), project) != before


def test_a_change_of_another_file_is_none(project: Path) -> None:
    before = fingerprint(("a/b.py",), (), project)
    (project / "a" / "e.py").write_text("import a.b\n")
    fingerprint.cache_clear()
    assert fingerprint(("a/b.py",), (), project) == before


def test_the_fingerprint_is_of_bytes(project: Path) -> None:
    """Syntax trees differ between Python versions: one may build TensorRT engines and another may read them."""
    content = b"".join(
        f"{name} {len(text)}\n".encode() + text for name, text in (("a/__init__.py", b""), ("k.cu", b"kernel"))
    )
    assert fingerprint(("a/__init__.py",), ("k.cu",), project) == hashlib.sha256(content).hexdigest()
