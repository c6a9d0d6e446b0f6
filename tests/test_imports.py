"""Import rules: which package may import which, no import cycles, and `training` only in its own tests."""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARROWS = {
    "files": set[str](),
    "commands": set[str](),
    "reading": set[str](),
    "ldm": set[str](),
    "weights": {"ldm"},
    "plugins": {"ldm"},
    "runtime": set[str](),
    "scoring": set[str](),
    "plans": {"cldm", "ldm", "runtime", "scoring"},  # plans are searched on cldm's networks
    "cldm": {"ldm", "plans", "plugins", "runtime", "weights"},  # a pipeline runs a plan; the modules form no cycle
    "canny2image_TRT": {"cldm", "plans", "runtime", "weights"},
    "compute_score": {"canny2image_TRT", "cldm", "commands", "plans", "scoring", "weights"},
    "build": {"canny2image_TRT", "cldm", "commands", "ldm", "plans", "plugins", "runtime", "scoring", "weights"},
}
OURS = {*ARROWS, "serving", "training", "benchmarks", "examples", "tests"}
for name in ARROWS.keys() - {"commands", "files", "reading"}:
    ARROWS[name] |= {"files", "reading"}
# No package above imports these, and they do not import each other; benchmarks may import build.
ARROWS |= {
    "training": OURS - {"build", "training", "benchmarks", "examples", "tests"},
    "benchmarks": OURS - {"training", "benchmarks", "examples", "tests"},
    "serving": {"canny2image_TRT", "cldm", "commands", "plans", "scoring", "weights", "files", "reading"},
    "examples": {"canny2image_TRT", "cldm", "commands", "scoring"},
}
# The package training and the test modules named test_training*.
OF_TRAINING = re.compile(r"(training|tests\.test_training\w*)(\.\w+)*")


def modules(root: Path) -> dict[str, Path]:
    """Return dotted name -> file for every existing module and package in ARROWS."""
    files = [file for name in ARROWS for file in (root / f"{name}.py", *sorted((root / name).rglob("*.py")))]
    names = {file: ".".join(file.relative_to(root).with_suffix("").parts) for file in files if file.is_file()}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


def imported(name: str, file: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, at any nesting level; `from a import b` gives a and a.b."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    yield from imported_by(ast.parse(file.read_text()), package)


def imported_by(tree: ast.AST, package: list[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def violations(root: Path) -> list[str]:
    """Return one line per import that ARROWS forbids."""
    found = []
    for name, file in modules(root).items():
        owner = name.split(".")[0]
        targets = {target.split(".")[0] for target in imported(name, file)}
        found += [f"{name} imports {target}" for target in sorted(targets & OURS - ARROWS[owner] - {owner})]
    return found


def circle(root: Path) -> list[str]:
    """Return the modules of one import cycle, or an empty list."""
    known = modules(root)
    graph = {name: {t for t in imported(name, file) if t in known and t != name} for name, file in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def told(file: Path) -> Iterator[str]:
    """Yield a module's strings, which may be names for `python -m`, and the imports in strings that are code."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
            with suppress(SyntaxError, ValueError):
                yield from imported_by(ast.parse(node.value), [])


def uses_of_training(root: Path) -> list[str]:
    """Return one line per use of the training package in a test file not named test_training*.py."""
    found = []
    for file in sorted((root / "tests").rglob("*.py")):
        if file.name.startswith("test_training"):
            continue
        name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        strings = told(file) if file.name != Path(__file__).name else ()  # this file's strings are planted violations
        matches = [OF_TRAINING.fullmatch(target) for target in (*imported(name, file), *strings)]
        found += [f"{name} uses {used}" for used in sorted({match[1] for match in matches if match})]
    return found


def plant(root: Path, file: str, text: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text)


def test_imports_follow_the_rules() -> None:
    assert {"ldm.unet", "cldm.pipeline", "runtime.eager", "compute_score", "build.__main__"} <= modules(ROOT).keys()
    assert violations(ROOT) == []


def test_no_import_cycles() -> None:
    assert circle(ROOT) == []


def test_only_tests_of_the_training_use_it() -> None:
    assert uses_of_training(ROOT) == []


def test_every_package_has_import_rules() -> None:
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    scripts = {file.stem for file in ROOT.glob("*.py")}
    assert packages | scripts <= OURS


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("ldm/unet.py", "import cldm\n", ["ldm.unet imports cldm"]),
        ("ldm/unet.py", "import os, cldm.stages as stages\n", ["ldm.unet imports cldm"]),
        ("ldm/deep/unet.py", "from cldm import stages\n", ["ldm.deep.unet imports cldm"]),
        ("ldm/__init__.py", "from cldm.stages import pack\n", ["ldm imports cldm"]),
        ("runtime/eager.py", "def run():\n    import ldm.unet\n", ["runtime.eager imports ldm"]),
        ("scoring/report.py", "if True:\n    from ldm import unet\n", ["scoring.report imports ldm"]),
        (
            "cldm/stages.py",
            "import build, training\nimport ldm\n",
            ["cldm.stages imports build", "cldm.stages imports training"],
        ),
        ("cldm/stages.py", "from canny2image_TRT import hackathon\n", ["cldm.stages imports canny2image_TRT"]),
        ("canny2image_TRT.py", "import ldm.unet\n", ["canny2image_TRT imports ldm"]),
        ("compute_score.py", "import runtime\n", ["compute_score imports runtime"]),
        ("training/train.py", "import build, cldm, scoring\n", ["training.train imports build"]),
        ("cldm/stages.py", "import tests.test_imports\n", ["cldm.stages imports tests"]),
        ("cldm/stages.py", "from . import model\nfrom .plan import Plan\nimport ldm, runtime, torch\n", []),
        ("build/__main__.py", "import cldm, ldm, plugins, runtime\n", []),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, text: str, found: list[str]) -> None:
    plant(tmp_path, file, text)
    assert violations(tmp_path) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("import ldm.b\n", "import ldm.a\n"),
        ("from ldm import b\n", "from ldm.a import x\n"),
        ("from . import b\n", "def f():\n    from .a import x\n"),
    ],
)
def test_a_planted_cycle_is_found(tmp_path: Path, one: str, other: str) -> None:
    plant(tmp_path, "ldm/a.py", one)
    plant(tmp_path, "ldm/b.py", "import torch\n")
    assert circle(tmp_path) == []
    plant(tmp_path, "ldm/b.py", other)
    assert {"ldm.a", "ldm.b"} <= set(circle(tmp_path))


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("tests/test_plan.py", "from training.scenes.scene import scene\n", ["tests.test_plan uses training"]),
        ("tests/conftest.py", "def birds():\n    import os, training.pictures\n", ["tests.conftest uses training"]),
        ("tests/deep/__init__.py", "import training\n", ["tests.deep uses training"]),
        ("tests/test_plan.py", "CODE = 'import sys\\nfrom training import fit'\n", ["tests.test_plan uses training"]),
        ("tests/test_plan.py", "run([python, '-m', 'training.pictures'])\n", ["tests.test_plan uses training"]),
        ("tests/test_plan.py", "from tests import test_training_a\n", ["tests.test_plan uses tests.test_training_a"]),
        ("tests/test_plan.py", "from .test_training_a import b\n", ["tests.test_plan uses tests.test_training_a"]),
        ("tests/test_training_a.py", "import training\n", []),
        ("tests/test_plan.py", "'training of plans, by python -m training'\nimport cldm\n", []),
    ],
)
def test_a_planted_use_of_the_training_is_found(tmp_path: Path, file: str, text: str, found: list[str]) -> None:
    plant(tmp_path, file, text)
    assert uses_of_training(tmp_path) == found
