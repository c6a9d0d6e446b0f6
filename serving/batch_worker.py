"""One worker of a batch: an actor of Ray with its own runtime, which draws groups of requests."""

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import commands
from canny2image_TRT import hackathon
from cldm.canny import Picture
from cldm.request import Request
from serving.batch_job import Job, Row, sentence
from serving.batch_outputs import KEY
from serving.parameters import png
from serving.together import draw_together

log = logging.getLogger(__name__)


class Worker:
    """Draws groups. options: of `hackathon`. Raises ValueError if the machine or the weights do not allow them."""

    def __init__(self, options: dict[str, Any]) -> None:
        commands.start_logging()
        self.runtime, self.failed = hackathon(**options), False
        self.runtime.initialize()

    def __call__(self, row: Row) -> Iterator[Row]:
        """Yield {"name", "pictures": PNG files, "error": a sentence or ""} for each job of a group.

        If the device fails in a group of several jobs, yield none: it is not known which of them caused that.
        """
        if self.failed:  # most errors of a device stay until the process ends
            os._exit(1)  # Ray starts a new process, and sends it this group
        jobs = pickle.loads(row["group"])
        good = [(job, request) for job, request in jobs if isinstance(request, Request)]
        yield from (_row(job.name, error=request) for job, request in jobs if isinstance(request, str))
        try:
            yield from self._draw(good)
        except RuntimeError as error:
            self.failed = True
            log.error("the device failed: %s", sentence(error))
            yield from (_row(job.name, error=sentence(error)) for job, _ in good if len(good) == 1)

    def _draw(self, jobs: Sequence[tuple[Job, Request]]) -> list[Row]:
        """Return the rows of all jobs. Raise RuntimeError if the device fails."""
        drawn = draw_together(self.runtime, [request for _, request in jobs])
        return [
            _row(job.name, error=sentence(result))
            if isinstance(result, Exception)
            else self._done(job, request, result)
            for (job, request), result in zip(jobs, drawn, strict=True)
        ]

    def _done(self, job: Job, request: Request, pictures: Sequence[Picture]) -> Row:
        said, weights = self.runtime.settings, Path(self.runtime.checkpoint.name).stem
        settings = {"Model": weights, **{name.capitalize(): said[name] for name in ("plan", "precision", "backend")}}
        return _row(job.name, [png(picture, request, {**settings, KEY: job.key}) for picture in pictures])


def _row(name: str, pictures: Sequence[bytes] = (), error: str = "") -> Row:
    return {"name": name, "pictures": list(pictures), "error": error}
