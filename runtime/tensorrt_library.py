"""The TensorRT library: imported when it is first needed, its failures as exceptions with what its logger heard."""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    import tensorrt as trt
else:

    class _Library:
        """TensorRT, imported when something of it is first asked for."""

        def __getattr__(self, name: str) -> object:
            return getattr(library(), name)

    trt = _Library()

T = TypeVar("T")
log = logging.getLogger(__name__)
heard_log = log.getChild("heard")  # for those who want TensorRT's warnings and errors without all its details

NAMES = ("tensorrt", "tensorrt_lean")
LINES = 8  # of the logger that an error carries


class TensorRTError(RuntimeError):
    """TensorRT is missing, refused something or failed: one sentence, and what its logger heard."""

    def __init__(self, sentence: str, heard: str = "") -> None:
        text = f"{sentence} (TensorRT: {heard})" if heard else sentence
        super().__init__(" ".join(text.split()))  # TensorRT's reasons may have several lines


def is_installed() -> bool:
    """Is there a TensorRT to import? Says nothing of whether it runs."""
    return any(find_spec(name) is not None for name in NAMES)


def library() -> Any:
    """The module tensorrt or, where only that is installed, tensorrt_lean. Raises TensorRTError without either."""
    reasons = []
    for name in NAMES:
        try:
            return import_module(name)
        except (ImportError, OSError) as error:  # OSError: one of its shared libraries is missing
            reasons.append(f"{name}: {error}")
    raise TensorRTError(
        f"TensorRT cannot be imported ({'; '.join(reasons)}): install tensorrt-cu13, or use another backend"
    )


def make_logger() -> Any:
    """A TensorRT logger that keeps warnings and errors until they are asked for with heard()."""

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=LINES)

        def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:
            matters = severity <= trt.ILogger.Severity.WARNING
            (heard_log if matters else log).debug("%s: %s", severity.name, msg)
            if matters:
                self.lines.append(msg.strip())

        def heard(self) -> str:
            lines = "; ".join(self.lines)
            self.lines.clear()
            return lines

    return CollectingLogger()


def make(factory: Callable[[], T], name: str, logger: Any) -> T:
    """What the factory makes. Raises TensorRTError if it is nothing, which the bindings report as a TypeError."""
    try:
        return factory()
    except TypeError as error:
        raise TensorRTError(f"TensorRT makes no {name} ({error}); check driver and GPU", logger.heard()) from error


def checked(value: T | None, sentence: str, logger: Any) -> T:
    """The value. Raises TensorRTError with the sentence if it is None or False, TensorRT's signs of failure."""
    if value is None or value is False:
        raise TensorRTError(sentence, logger.heard())
    return value


def on(device: torch.device) -> AbstractContextManager[object]:
    """TensorRT works on CUDA's current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
