"""The stand-in offers nothing that the real TensorRT bindings lack: what runs on it calls names that exist.

The bindings come from their wheel, and import over empty libraries: classes, enums and signatures are the real ones.
"""

import json
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

WHEEL = "tensorrt-cu13-bindings"
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")
# What the bindings link to; none of it is called here.
FUNCTIONS = """
createInferBuilder_INTERNAL createInferRuntime_INTERNAL createInferRefitter_INTERNAL createNvOnnxParser_INTERNAL
createNvOnnxParserRefitter_INTERNAL getPluginRegistry getBuilderPluginRegistry initLibNvInferPlugins getInferLibVersion
getNvOnnxParserVersion
""".split()
OURS = [kind for kind in vars(standin).values() if getattr(kind, "__module__", "") == standin.__name__]
CLASSES = {kind.__qualname__: kind for kind in OURS if isinstance(kind, type) and kind.__name__[0] != "_"}
CLASSES |= {"ILogger.Severity": standin.ILogger.Severity}
# The stand-in's own, and what one version has and the project does not name.
EXTRA = {"ITensor.properties", "INetworkDefinition.model", "ITimingCache.HEADER", "IBuilderConfig.cleared"}
EXTRA |= {"IBuilderConfig.limits", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"}
DESCRIBE = """
import json, operator, sys
import tensorrt_bindings as trt

print(json.dumps({
    name: {member: getattr(kind, member).__doc__ or "" for member in dir(kind)}
    for name in sys.argv[1:] if (kind := operator.attrgetter(name)(trt))
}))
"""


def describe(version: str, folder: Path) -> dict[str, dict[str, str]]:
    """Class -> member -> its docstring, which begins with its signature."""
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
        # Beside the bindings, where they look first.
        path = folder / "tensorrt_bindings" / f"{library}.so.{version.split('.')[0]}"
        subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=source, text=True, check=True)
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE, *CLASSES], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_the_stand_in_offers_only_what_is_real(version: str, tmp_path: Path) -> None:
    real = describe(version, tmp_path)
    checked = 0
    for name, kind in CLASSES.items():
        for member, value in vars(kind).items():
            if member[0] == "_" or f"{name}.{member}" in EXTRA:
                continue
            assert member in real[name], f"{name}.{member} is not in TensorRT {version}"
            if isfunction(value) and name not in ("ILogger", "IProgressMonitor"):
                names = [*signature(value).parameters]
                overloads = [
                    re.findall(r"(\w+):", line) for line in real[name][member].splitlines() if "(self:" in line
                ]
                assert names in [overload[: len(names)] for overload in overloads], f"{name}.{member}{names}"
            checked += 1
    assert checked > 70
