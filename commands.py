"""What commands do with errors, Ctrl-C and warnings: one line on stderr, an exit status, and no line twice.

Commands import this module first: from then on Ctrl-C gives one line, also during their imports, which take seconds.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType

STOPPED = 130  # exit status after Ctrl-C, as in shells; also Python's own
# What installs the packages of a command: extras of pyproject.toml by the beginnings of modules' names.
EXTRAS = {"serving.page": "web", "serving": "serve", "training": "train", "benchmarks": "dev serve"}


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped: nothing was written", file=sys.stderr)
    elif isinstance(error, ModuleNotFoundError) and not find_spec((error.name or "commands").partition(".")[0]):
        command = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
        extra = next((f" {extra}" for start, extra in EXTRAS.items() if command.startswith(start)), "")
        print(f"error: {error}: run ./preprocess.sh{extra}, which installs what is missing", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _hook


@contextmanager
def one_line(debug: bool = False, stopped: str = "nothing was written") -> Iterator[None]:
    """Turn a ValueError or OSError of the block into SystemExit with one line and status 1, Ctrl-C into status 130.

    debug: raise the error itself. stopped: what remains after Ctrl-C.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if debug:
            raise
        raise SystemExit(f"error: {' '.join(str(error).split())}") from error  # a file's name may have a line break
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning catches Ctrl-C itself, and exits with status 1.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        print(f"stopped: {stopped}", file=sys.stderr)
        raise SystemExit(STOPPED) from None


def start_logging() -> None:
    """Log to stderr, each message once."""
    handler = logging.StreamHandler()
    handler.addFilter(Once())
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])


class Once(logging.Filter):
    """Drops messages that were logged before, such as the warnings that each use of a prompt gives."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message, before = record.getMessage(), len(self.logged)
        self.logged.add(message)
        return len(self.logged) > before
