"""Contexts for process-wide settings that several threads may be in at the same time."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


class SharedContext:
    """Enters the context of `make` with the first thread, and leaves it with the last one.

    If each thread saved and restored a process-wide setting, a thread could save what another one has set, and restore
    it for good. Calling the object returns a context manager; contexts may be nested.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self.make = make
        self.lock = threading.Lock()
        self.inside = 0
        self.context: AbstractContextManager[None] | None = None
        os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        """Leave the context in a forked child, where the threads that were inside do not exist."""
        self.lock, self.inside = threading.Lock(), 0
        context, self.context = self.context, None
        if context:
            context.__exit__(None, None, None)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if self.context is None:
                context = self.make()
                context.__enter__()
                self.context = context
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside = max(0, self.inside - 1)
                if not self.inside and self.context:
                    context, self.context = self.context, None
                    context.__exit__(None, None, None)
