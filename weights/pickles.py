"""A bound on how deeply tuples are nested in a PyTorch file, before its pickle is read.

As keys of a dict they are hashed, which Python does in C without a limit: millions of levels overflow the stack.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import IO

from ldm.weights import CheckpointError

TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
MOST_TUPLES = 50_000  # four per tensor; 100,000 levels were hashed without a crash, 200,000 overflowed 8 MiB
LEGACY = 5  # pickles at the start of a file in PyTorch's format before 1.6


def check_depth(path: Path, what: str) -> None:
    """Raise CheckpointError if the file's pickles build more tuples than MOST_TUPLES, so that none is nested deeper.

    what: the file is, for messages. Raises ValueError, or zipfile's errors, for damaged files.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as file:
                        _check(file, 1, path, what)
    else:
        with path.open("rb") as file:
            _check(file, LEGACY, path, what)


def _check(file: IO[bytes], pickles: int, path: Path, what: str) -> None:
    tuples = 0
    for _ in range(pickles):
        for code, _, _ in pickletools.genops(file):
            tuples += code.name in TUPLES
            if tuples > MOST_TUPLES:
                raise CheckpointError(
                    f"{what} {path} has more than {MOST_TUPLES} tuples, which no checkpoint for this model needs: give "
                    "a .safetensors file, or a .pth with tensors only"
                )
