"""All names that the project or the stand-in uses exist in the real bindings of TensorRT and of TensorRT for RTX.

The bindings of classic TensorRT come from their wheel and are imported with empty shared libraries: classes, enums and
signatures are the real ones. The bindings of TensorRT for RTX are installed.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from inspect import isfunction, signature
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.standin import tensorrt as standin

ROOT = Path(__file__).resolve().parent.parent
CALLERS = (
    "build/compile.py",
    "build/progress.py",
    "runtime/tensorrt.py",
    "runtime/tensorrt_calls.py",
    "runtime/tensorrt_refit.py",
)
# The names of variables in CALLERS that hold objects of the library, and their classes.
VARIABLES = {
    "native": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "inspector": "EngineInspector",
    "refitter": "Refitter",
    "self.engine": "ICudaEngine",
    "self.context": "IExecutionContext",
    "self.runtime": "Runtime",
}
WHEEL = "tensorrt-cu13-bindings"
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")
# Functions that the bindings link to; the tests call none of them.
FUNCTIONS = """
createInferBuilder_INTERNAL createInferRuntime_INTERNAL createInferRefitter_INTERNAL createNvOnnxParser_INTERNAL
createNvOnnxParserRefitter_INTERNAL getPluginRegistry getBuilderPluginRegistry initLibNvInferPlugins getInferLibVersion
getNvOnnxParserVersion
""".split()
OURS = [kind for kind in vars(standin).values() if getattr(kind, "__module__", "").startswith("tests.standin.")]
CLASSES = {kind.__qualname__: kind for kind in OURS if isinstance(kind, type) and kind.__name__[0] != "_"}
CLASSES |= {"ILogger.Severity": standin.ILogger.Severity}
# Members that only the stand-in has, and those that only TensorRT for RTX has.
EXTRA = {"IRuntimeCache.HEADER"}
RTX_ONLY = {"IRuntimeCache", "ICudaEngine.create_runtime_config", "IExecutionContext.is_stream_capturable"}
RTX_ONLY |= {"IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache", "ComputeCapability"}
RTX_ONLY |= {"IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability"}
DESCRIBE = """
import json, operator, sys
import {module} as trt

def describe(name):
    try:
        kind = operator.attrgetter(name)(trt)
    except AttributeError:
        return None
    return {{member: getattr(kind, member).__doc__ or "" for member in dir(kind)}}

print(json.dumps({{name: describe(name) for name in sys.argv[1:]}}))
"""
PLUGIN = """
import numpy as np, tensorrt, tensorrt.plugin as trtp
from plugins.group_norm.tensorrt_plugin import register
register(90, lazy=True)
print(list(trtp.op.canny2image.group_norm.input_attrs), trtp.op.canny2image.group_norm.num_outputs)
"""


def named() -> set[str]:
    """Return the names that the project's code looks up in the module, as `Class` and `Class.member`."""
    found = set()
    for caller in CALLERS:
        for node in ast.walk(ast.parse((ROOT / caller).read_text())):
            words = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            variable, _, member = words.rpartition(".")
            if variable in VARIABLES:
                found.add(f"{VARIABLES[variable]}.{member}")
            elif match := re.fullmatch(r"(?:self\.|engine\.)?trt\.([A-Z]\w*)(?:\.(\w+))?(\..*)?", words):
                found.add(".".join(filter(None, match.groups()[:2])))
    return found


def ask(module: str, folder: Path, names: set[str]) -> dict[str, dict[str, str] | None]:
    """Return class -> member -> docstring, which begins with the signature; None for a class that does not exist."""
    program = DESCRIBE.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", program, *sorted(names)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str] | None] = json.loads(done.stdout)
    return found


def install(version: str, folder: Path) -> None:
    """Install the bindings of classic TensorRT as tensorrt_bindings and tensorrt in the folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=0", "--timeout=20"]
    done = subprocess.run([*pip, "--dest", folder, f"{WHEEL}=={version}"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot download {WHEEL} {version}: {done.stderr.strip().splitlines()[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    source = "\n".join(f"void* {name}(void) {{ return 0; }}" for name in FUNCTIONS)
    for library in LIBRARIES:
        # Next to the bindings, where they look first.
        path = folder / "tensorrt_bindings" / f"{library}.so.{version.split('.')[0]}"
        subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=source, text=True, check=True)
    shutil.copytree(folder / "tensorrt_bindings" / "plugin", folder / "tensorrt" / "plugin")
    (folder / "tensorrt" / "__init__.py").write_text("from tensorrt_bindings import *\n")


def check_names(real: dict[str, dict[str, str] | None], missing: set[str]) -> None:
    """Check that all names that the project uses exist, except those in `missing`."""
    for name in named():
        kind, _, member = name.partition(".")
        if {kind, name} & missing:
            continue
        members = real[kind]
        assert members is not None, f"{kind} does not exist"
        assert not member or member in members, f"{name} does not exist"


def check_standin(real: dict[str, dict[str, str] | None], missing: set[str]) -> int:
    """Check that the stand-in has only real members, with the real arguments. Return the number of members compared."""
    checked = 0
    for name, kind in CLASSES.items():
        for member, value in vars(kind).items():
            if member[0] == "_" or {name, f"{name}.{member}"} & (EXTRA | missing):
                continue
            members = real[name]
            assert members is not None, f"{name} does not exist"
            assert member in members, f"{name}.{member} does not exist"
            if isfunction(value) and name != "ILogger":
                names = [*signature(value).parameters]
                overloads = [re.findall(r"(\w+):", line) for line in members[member].splitlines() if "(self:" in line]
                assert names in [overload[: len(names)] for overload in overloads], f"{name}.{member}{names}"
            checked += 1
    return checked


def test_what_the_project_names_is_found() -> None:
    assert {"Builder", "OnnxParser", "Runtime", "Refitter", "BuilderFlag.TF32", "TensorFormat"} <= named()
    assert {"NetworkDefinitionCreationFlag.STRONGLY_TYPED", "IProgressMonitor", "ILogger"} <= named()
    assert {"Builder.create_network", "IBuilderConfig.set_flag", "IExecutionContext.execute_async_v3"} <= named()
    assert {"INetworkDefinition.num_inputs", "OnnxParser.get_error", "Refitter.refit_cuda_engine"} <= named()


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_classic_tensorrt_has_all_that_is_named_and_takes_the_plugin(version: str, tmp_path: Path) -> None:
    install(version, tmp_path)
    # In a separate process: a name can be registered only once.
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", PLUGIN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['groups', 'eps', 'silu'] 1"

    real = ask("tensorrt_bindings", tmp_path, {*CLASSES, *(name.split(".")[0] for name in named())})
    check_names(real, RTX_ONLY)
    assert check_standin(real, RTX_ONLY) > 40


def test_tensorrt_for_rtx_has_all_that_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it", exc_type=ImportError)
    real = ask("tensorrt_rtx", tmp_path, {*CLASSES, *(name.split(".")[0] for name in named())})
    check_names(real, set())
    assert check_standin(real, set()) > 50
