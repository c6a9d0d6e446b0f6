"""Turns failures of TensorRT, which it reports by return values and log messages, into exceptions."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")
log = logging.getLogger(__name__)
heard_log = log.getChild("heard")  # only TensorRT's warnings and errors

LINES = 8  # log messages that an error includes at most


class TensorRTError(RuntimeError):
    """TensorRT is missing, rejected something or failed. The message is one sentence, with TensorRT's log messages."""

    def __init__(self, sentence: str, heard: str = "") -> None:
        text = f"{sentence} (TensorRT: {heard})" if heard else sentence
        super().__init__(" ".join(text.split()))  # TensorRT's messages may have several lines


def logger_of(trt: Any) -> Any:
    """Return the only logger of the module `trt`: while an object uses it, TensorRT ignores others.

    heard() returns and discards the last warnings and errors. The logger calls `listener` with every message.
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
    """Call the listener with every message inside the context. Discard the warnings and errors stored before."""
    logger.heard()
    logger.listener = listener
    try:
        yield
    finally:
        logger.listener = len


def make(factory: Callable[[], T], name: str, logger: Any) -> T:
    """Return the factory's object. Raise TensorRTError if it raises TypeError, by which the bindings report failure."""
    try:
        return factory()
    except TypeError as error:
        raise TensorRTError(
            f"TensorRT cannot create the {name} ({error}); check the driver and the GPU", logger.heard()
        ) from error


def checked(value: T | None, sentence: str, logger: Any) -> T:
    """Return the value. Raise TensorRTError with the sentence if the value is None or False, which mean failure."""
    if value is None or value is False:
        raise TensorRTError(sentence, logger.heard())
    return value


def on(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which `device` is CUDA's current device, which TensorRT uses; for the CPU it does nothing."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
