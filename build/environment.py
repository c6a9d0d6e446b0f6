"""Lists the requirements of pyproject.toml that this interpreter does not meet.

    python build/environment.py [extra ...]     prints the unmet requirements, one per line
    python build/environment.py --clean         removes what interrupted installations left in .venv

The exit status is 0 after success, 2 if Python's version is not supported or an extra is unknown, and 3 if pip is
missing or damaged. This file contains only syntax that Python 2.7 knows, so that an old Python prints a sentence too.
"""

import os
import sys

OLDEST, NEWEST = (3, 10), (3, 13)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def in_venv():  # type: () -> bool
    """Return whether this is the interpreter of the project's .venv."""
    return os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(ROOT, ".venv"))


def main(arguments):  # type: (list[str]) -> int
    """Run the command and return its exit status."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        got, oldest, newest = [".".join(map(str, v[:2])) for v in (sys.version_info, OLDEST, NEWEST)]
        change = "delete .venv and set PYTHON" if in_venv() else "set PYTHON (or CANNY2IMAGE_PYTHON)"
        what = "got Python " + got + " (" + sys.executable + "), expected " + oldest + " to " + newest
        sys.stderr.write(what + ": " + change + " to another one, such as python3.12\n")
        return 2
    from build.requirements import run

    return run(arguments, in_venv())


if __name__ == "__main__":
    sys.path[0] = ROOT
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)  # preprocess.sh prints the sentence
