"""TensorRT's logger, and imports of the project without TensorRT."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from runtime.tensorrt_calls import listening, logger_of
from tests.standin import tensorrt as standin


def test_the_logger_keeps_the_last_warnings_and_errors() -> None:
    messages: list[str] = []
    logger, severity = logger_of(standin), standin.ILogger.Severity
    assert logger_of(standin) is logger, "TensorRT has one logger per process"
    logger.heard()
    for level in severity:
        logger.log(level, f"{level.name}\n")
    assert logger.heard() == "INTERNAL_ERROR; ERROR; WARNING"
    assert logger.heard() == ""
    with listening(logger, messages.append):
        for i in range(100):
            logger.log(severity.ERROR, str(i))
    assert logger.heard() == "92; 93; 94; 95; 96; 97; 98; 99"
    assert messages == [str(i) for i in range(100)]


def test_importing_needs_no_tensorrt() -> None:
    code = "import sys, build.compile; assert not {name for name in sys.modules if name.startswith('tensorrt')}"
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
