"""Shows the progress of a TensorRT build, and stops the build on Ctrl-C."""

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
    """Show the progress of one engine's build. After Ctrl-C, raise KeyboardInterrupt once TensorRT has stopped."""
    with tqdm(desc=f"building {name}", unit="step") as progress:
        monitor = make_monitor(trt, progress)
        config.progress_monitor = monitor
        with _interrupts_noted(monitor):
            yield
        if monitor.interrupted:
            raise KeyboardInterrupt
        progress.update((progress.total or 0) - progress.n)  # steps that TensorRT skipped


def make_monitor(trt: Any, progress: "tqdm[Any]") -> Any:
    """Return an IProgressMonitor that advances the bar at every step of any phase. Several threads may call it.

    Phases are nested and reported only when they start, so the total grows. Once `interrupted` is set, the build stops
    at its next step.
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
            """Required by IProgressMonitor; does nothing."""

    return Monitor()


@contextmanager
def _interrupts_noted(monitor: Any) -> Iterator[None]:
    """Set `interrupted` on Ctrl-C inside the context; in threads other than the main thread, do nothing.

    Python's own handler could raise inside a callback of TensorRT, whose bindings swallow exceptions.
    """
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
