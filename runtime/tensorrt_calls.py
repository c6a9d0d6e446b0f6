"""Calls of TensorRT, whose failures are return values, with the reasons given to a logger: here they are exceptions."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")
log = logging.getLogger(__name__)
heard_log = log.getChild("heard")  # for those who want TensorRT's warnings and errors without all its details

LINES = 8  # of the logger that an error carries


class TensorRTError(RuntimeError):
    """TensorRT is missing, refused something or failed: one sentence, and what its logger heard."""

    def __init__(self, sentence: str, heard: str = "") -> None:
        text = f"{sentence} (TensorRT: {heard})" if heard else sentence
        super().__init__(" ".join(text.split()))  # TensorRT's reasons may have several lines


def logger_of(trt: Any) -> Any:
    """The logger of the module `trt`, one for the process: the library ignores any other while an object of it lives.

    It keeps warnings and errors until they are asked for with heard(). `listener` is called with every message.
    """
    return _logger_of(trt.ILogger)


@cache
def _logger_of(base: Any) -> Any:
    severity = base.Severity

    class CollectingLogger(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.lines: deque[str] = deque(maxlen=LINES)
            self.listener: Callable[[str], object] = len

        def log(self, severity_: Any, msg: str) -> None:
            matters = severity_ <= severity.WARNING
            (heard_log if matters else log).debug("%s: %s", severity_.name, msg)
            if matters:
                self.lines.append(msg.strip())
            self.listener(msg)

        def heard(self) -> str:
            lines = "; ".join(self.lines)
            self.lines.clear()
            return lines

    return CollectingLogger()


@contextmanager
def listening(logger: Any, listener: Callable[[str], object]) -> Iterator[None]:
    """Let the listener have every message meanwhile; what was heard before is forgotten."""
    logger.heard()
    logger.listener = listener
    try:
        yield
    finally:
        logger.listener = len


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
