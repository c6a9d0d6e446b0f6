"""`BASE` or `BASE:CONTROL`: where weights come from, and the files behind them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm.config import Architecture
from ldm.weights import CheckpointError
from reading import shown
from weights.folders import BASE_PARTS, check_scaling, check_scheduler, existing, read_folder, resolve, weight_files
from weights.names import Parts, sort_tensors
from weights.read import check_exists, read_tensors


@dataclass(frozen=True)
class Source:
    """A file or a folder with some of the parts. what: it is, for messages."""

    path: Path
    what: str = "checkpoint"

    @property
    def folders(self) -> dict[str, Path]:
        """Return the folders of a diffusers pipeline by part; empty for a file or for the folder of one part."""
        found = {part: self.path / part for part in (*BASE_PARTS, "controlnet")}
        return {part: folder for part, folder in found.items() if folder.is_dir()}

    @property
    def files(self) -> list[Path]:
        """Return all files that are read. Raises CheckpointError if one is missing."""
        if not self.path.is_dir():
            files = [self.path]
        else:
            folders = list(self.folders.values()) or [self.path]
            configs = [
                self.path / "scheduler" / "scheduler_config.json",
                *(folder / "config.json" for folder in folders),
            ]
            files = [*(file for folder in folders for file in weight_files(folder)), *filter(Path.is_file, configs)]
        for file in files:
            check_exists(file, self.what)
        return files

    def read(self) -> list[tuple[str | None, dict[str, Tensor]]]:
        """Read all tensors, by folder with the part that it holds; None for a file or a folder that may hold any."""
        if not self.path.is_dir():
            return [(None, read_tensors(self.path, self.what))]
        return [(part, read_folder(folder)) for part, folder in self.folders.items()] or [
            (None, read_folder(self.path))
        ]

    def parts(self, shapes: Mapping[str, torch.Size], architecture: Architecture) -> Parts:
        """Read all parts. Raises CheckpointError for what is missing, damaged or made for another noise schedule."""
        check_scheduler(self.path, architecture.schedule)
        if "vae" in self.folders:
            check_scaling(self.folders["vae"], architecture.vae.scale_factor)
        parts = Parts()
        for part, tensors in self.read():
            parts.update(sort_tensors(tensors, shapes, architecture, part))
        return parts


def split(name: str) -> list[str]:
    """Split BASE:CONTROL at the colon; a colon inside an existing path does not count. Raises CheckpointError."""
    if os.pathsep not in name or "://" in name or os.path.exists(name):
        return [name]
    pieces = name.split(os.pathsep)
    halves = [(os.pathsep.join(pieces[:i]), os.pathsep.join(pieces[i:])) for i in range(1, len(pieces))]
    if len(halves) == 1:
        return [half for half in halves[0] if half] if all(halves[0]) else _bad(name)
    existing = [pair for pair in halves if all(os.path.exists(half) for half in pair)]
    return list(existing[0]) if len(existing) == 1 else _bad(name)


def existing_parts(name: str) -> str:
    """Return the name with the paths in it that exist made absolute. Raises CheckpointError like `split`."""
    return os.pathsep.join(map(existing, split(name)))


def _bad(name: str) -> list[str]:
    raise CheckpointError(
        f"weights {shown(name)}: expected BASE or BASE{os.pathsep}CONTROL with two paths that exist; a path with a "
        f"{os.pathsep!r} in it cannot be told apart from them, so rename it or give a link to it"
    )


def find(name: str) -> list[Source]:
    """Return the base and, if given, the ControlNet. Raises CheckpointError for what does not exist."""
    return [Source(resolve(part, "checkpoint")) for part in split(name)]
