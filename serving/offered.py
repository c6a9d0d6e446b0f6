"""The checkpoints and LoRAs that clients of the server may name."""

from collections.abc import Sequence
from pathlib import Path

from reading import shown
from serving.dispatch import Weights
from serving.shelf import Shelf
from weights.loras import Loras


class Offered:
    """Names of files. start: the weights that the server was started with, which can always be named, too."""

    def __init__(self, checkpoints: Shelf, loras: Shelf, start: Weights) -> None:
        self.checkpoints, self.loras, self.start = checkpoints, loras, start

    @property
    def checkpoint_names(self) -> list[str]:
        return sorted({*self.checkpoints.names, self.checkpoint_name(self.start.checkpoint)})

    def find_checkpoint(self, name: str) -> str:
        """Return the checkpoint of a name. Raise ValueError if there is none."""
        if name == self.checkpoint_name(self.start.checkpoint):
            return self.start.checkpoint
        if name not in self.checkpoints.names:
            known = ", ".join(self.checkpoint_names[:8])
            raise ValueError(f"checkpoint: got {shown(name)}, expected one of those offered here: {known}")
        return self.checkpoints.find(name)

    def find_loras(self, loras: Sequence[tuple[str, float]]) -> Loras:
        """Return the files of LoRAs with their strengths. Raise ValueError for a name that there is not."""
        return tuple((self.loras.find(name), strength) for name, strength in loras)

    def checkpoint_name(self, checkpoint: str) -> str:
        """Return the name for clients; paths of this machine are none of their business."""
        found = _name(self.checkpoints, checkpoint)
        if found is None and Path(checkpoint).stem in self.checkpoints.names:
            return f"{Path(checkpoint).stem} (start)"
        return found or Path(checkpoint).stem

    def lora_name(self, file: str) -> str:
        return _name(self.loras, file) or Path(file).stem


def _name(shelf: Shelf, file: str) -> str | None:
    path = str(Path(file).resolve())
    return next((name for name in shelf.names if shelf.find(name) == path), None)
