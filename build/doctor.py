"""Runs the checks of `python -m build --check` and writes a report to attach to an issue.

Without a GPU, a portable library still builds the engines and lists their layers, and onnxruntime runs the ONNX files;
the other checks are reported as "needs GPU" or "not tried".
"""

import json
import logging
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any, Literal

from build.case import Case, NeedsGPU, NotTried, Wrong
from build.checks import CHECKS
from build.errors import BuildError
from cldm.engine_files import expected_manifest
from files import write_whole
from runtime.cuda import CudaError
from runtime.machine import package_version
from runtime.sources import ROOT
from runtime.tensorrt_calls import TensorRTError, heard_log, on
from runtime.tensorrt_library import LIBRARIES, sm

REPORT = Path("tensorrt_check.json")
LINES = 100  # lines of TensorRT's log kept per check
PACKAGES = [
    *(library.package for library in LIBRARIES),
    *"torch triton onnx onnxscript onnx-ir cuda-bindings numpy".split(),
]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    result: Literal["ok", "FAILED", "not tried", "needs GPU"]
    figures: str  # or the reason why the check failed or did not run
    traceback: str  # of an unexpected exception; otherwise empty
    tensorrt: tuple[str, ...]  # warnings and errors from TensorRT's log


def examine(case: Case) -> bool:
    """Run all checks, print one line per check, and write REPORT. Return True if no check failed."""
    report, findings = _circumstances(case), []
    with on(case.device):
        for name, check in CHECKS:
            findings.append(_make(name, partial(check, case)))
            print(f"{name:18s} {findings[-1].result:10s} {findings[-1].figures}", flush=True)
    report["checks"] = [asdict(one) for one in findings]
    report["layers"] = {name: [layer.name for layer in one.layers] for name, one in case.reports.items()}
    write_whole(REPORT, anonymous(json.dumps(report, indent=2)).encode())
    if left := [one.check for one in findings if one.result == "needs GPU"]:
        where = " or ".join(map(sm, case.builder.targets))
        print(f"still to run on a machine with {where}, with the same command: {', '.join(left)}")
    print(f"report written to {REPORT.absolute()}: please attach it to an issue if a check failed")
    return all(one.result != "FAILED" for one in findings)


def anonymous(text: str) -> str:
    """Replace local folders, and the user's name in other paths, with placeholders."""
    home = os.path.expanduser("~")
    places = {"<project>": str(ROOT), "<here>": os.getcwd(), "<temporary>": tempfile.gettempdir(), "~": home}
    for name, place in sorted(places.items(), key=lambda item: -len(item[1])):  # longest first: they may be nested
        if len(place) > 1:  # not /
            text = re.sub(rf"{re.escape(place)}(?![\w.-])", name, text)
    user = os.path.basename(home)
    return re.sub(rf"/{re.escape(user)}(?![\w.-])", "/<user>", text) if user else text


def _make(name: str, check: Callable[[], str]) -> Finding:
    trace = ""
    result: Literal["ok", "FAILED", "not tried", "needs GPU"] = "FAILED"
    with _listening() as heard:
        try:
            figures, result = check(), "ok"
        except NeedsGPU as reason:
            figures, result = str(reason), "needs GPU"
        except NotTried as reason:
            figures, result = str(reason), "not tried"
        except (Wrong, BuildError, TensorRTError, CudaError) as error:
            figures = str(error)
        except Exception as error:  # run the remaining checks whatever fails here
            figures, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    words = tuple(record.getMessage().strip() for record in heard[-LINES:])
    return Finding(name, result, " ".join(figures.split()), trace, words)


@contextmanager
def _listening() -> Iterator[list[logging.LogRecord]]:
    """Yield a list that collects TensorRT's warnings and errors until the context ends."""
    handler, level, propagate = BufferingHandler(sys.maxsize), heard_log.level, heard_log.propagate
    heard_log.addHandler(handler)
    heard_log.setLevel(logging.DEBUG)
    heard_log.propagate = False  # into the report, not between the printed lines
    try:
        yield handler.buffer
    finally:
        heard_log.removeHandler(handler)
        heard_log.setLevel(level)
        heard_log.propagate = propagate


def _circumstances(case: Case) -> dict[str, Any]:
    """Return the start of the report: date, versions, platform, the checkpoint's file name and the manifest."""
    manifest = expected_manifest(case.target, case.device, library=case.builder.library)
    return {
        "made": time.strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
        "platform": platform.platform(),
        "weights": Path(case.checkpoint.name).name,
        "manifest": dict(manifest.facts),
    }
