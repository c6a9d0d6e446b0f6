"""The checkpoints and LoRAs that a page or server offers: files of the folders named at start, and nothing else.

Only safetensors: users choose among the files, and a pickle would be read by code that is hard to trust.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reading import shown

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Shelf:
    """Files by name, which is the path in its folder without suffix, such as "birds/red"."""

    folder: Path | None
    what: str  # "checkpoint" or "LoRA", for messages

    @property
    def names(self) -> list[str]:
        """The names of all files there now, sorted. Links that lead out of the folder are left out."""
        return sorted(self._files())

    def find(self, name: str) -> str:
        """Return the path of a file. Raise ValueError if there is none of this name."""
        files = self._files()
        if not isinstance(name, str) or name not in files:
            known = ", ".join(sorted(files)[:8]) or "none"
            raise ValueError(f"{self.what}: got {shown(name)}, expected one of those offered here: {known}")
        return str(files[name])

    def _files(self) -> dict[str, Path]:
        if self.folder is None:
            return {}
        root = self.folder.resolve()
        found = [file for file in root.rglob(f"*{SUFFIX}") if file.is_file() and file.resolve().is_relative_to(root)]
        return {file.relative_to(root).as_posix().removesuffix(SUFFIX): file for file in found}


def check_folders(folders: Sequence[Path | None]) -> None:
    """Raise ValueError for a folder that does not exist."""
    for folder in folders:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder} is not a folder: give one with {SUFFIX} files")
