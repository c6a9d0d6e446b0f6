"""The progress bar of the runtime and of the scoring run."""

import sys
from typing import Any

from tqdm import tqdm


class Progress(tqdm):  # type: ignore[type-arg]
    """A bar on stderr, none if the process has no stderr. It starts no thread, which would outlive it in the host."""

    monitor_interval = 0

    def __init__(self, *args: Any, disable: bool | None = False, **kwargs: Any) -> None:
        kwargs["disable"] = True if sys.stderr is None else disable
        super().__init__(*args, **kwargs)
