"""The folder of a batch's results: which requests are done, the pictures' files, and summary.json."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from files import write_whole
from reading import read_regular, shown
from serving.batch_job import Job
from serving.parameters import load

log = logging.getLogger(__name__)

KEY = "Batch request"  # in the settings of a picture's parameters: the key of its job


@dataclass
class Summary:
    """Counts of requests, and what failed, by name. pictures: drawn in `seconds`, which include the workers' start."""

    skipped: int = 0
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    pictures: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        rate = self.pictures / self.seconds if self.seconds else 0.0
        seconds, rate = round(self.seconds, 3), round(rate, 3)
        return {**vars(self), "seconds": seconds, "pictures_per_second": rate, "failed": self.failed}

    def __str__(self) -> str:
        rate = self.as_json()["pictures_per_second"]
        counts = f"{self.done} requests done, {self.skipped} skipped, {len(self.failed)} failed"
        return f"{counts}; {self.pictures} pictures in {self.seconds:.1f} s, {rate:.2f} per second"


@dataclass(frozen=True)
class Outputs:
    """The folder of a batch."""

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / ".batch.lock"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    def left(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that are not done. Log what will be drawn again, and which files belong to no job.

        Raise ValueError if a file that no batch has made has the name of an output.
        """
        names = {name for job in jobs for name in job.outputs}
        if others := sorted(file.name for file in self.folder.glob("[!.]*.png") if file.name not in names):
            log.info("OUTPUT: %d other pictures in %s stay, such as %s", len(others), self.folder, shown(others[0]))
        return [job for job in jobs if not self._is_done(job)]

    def _is_done(self, job: Job) -> bool:
        """Return whether all files are there, with the key of the job, and, if the seed is drawn, with the same one."""
        files = [self.folder / name for name in job.outputs]
        found = [_parameters(file) for file in files if file.exists()]
        if any(values["settings"].get(KEY) != job.key for values in found):
            log.info("%s: %s was made with other arguments, input or weights: drawn again", job.place, files[0].name)
            return False
        return len(found) == len(files) and len({shown(values["seed"]) for values in found}) == 1

    def write(self, job: Job, pictures: Iterable[bytes]) -> None:
        for name, content in zip(job.outputs, pictures, strict=True):
            write_whole(self.folder / name, content)

    def write_summary(self, summary: Summary) -> None:
        text = json.dumps(summary.as_json(), indent=1, ensure_ascii=False)
        write_whole(self.summary, f"{text}\n".encode())


def _parameters(file: Path) -> dict[str, Any]:
    try:
        return load(read_regular(file))
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"OUTPUT: {file} is there, but no batch has made it ({reason}): move it, or choose another OUTPUT"
        ) from error
