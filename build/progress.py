"""A build of TensorRT's as the user sees it: a bar that moves, and Ctrl-C that stops it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    import tensorrt as trt


@contextmanager
def watched(trt: Any, config: "trt.IBuilderConfig", name: str) -> Iterator[None]:
    """A context for the build of one engine. Raises KeyboardInterrupt once TensorRT has stopped."""
    with tqdm(desc=f"building {name}", unit="step") as progress:
        monitor = make_monitor(trt, progress)
        config.progress_monitor = monitor
        with _interrupts_noted(monitor):
            yield
        if monitor.interrupted:
            raise KeyboardInterrupt
        progress.update((progress.total or 0) - progress.n)  # steps that TensorRT left out


def make_monitor(trt: Any, progress: "tqdm[Any]") -> Any:
    """An IProgressMonitor that moves the bar by one step of whatever phase, from several threads.

    Phases lie in one another and are announced as they begin, so the total grows. Once `interrupted` is set, the build
    stops at its next step.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self.lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self.lock:
                progress.total = (progress.total or 0) + num_steps
                progress.set_postfix_str(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self.lock:
                progress.update()
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            """Must be there."""

    return Monitor()


@contextmanager
def _interrupts_noted(monitor: Any) -> Iterator[None]:
    """Python's own handler would raise in a callback, and the bindings swallow what is raised there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: object) -> None:
        monitor.interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
