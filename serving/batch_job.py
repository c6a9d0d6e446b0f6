"""A request of a batch, checked before any work, whose pictures are read again when it is drawn."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cldm.request import Request, drawn
from files import digest, file_digest
from scoring.pictures import read

Row = dict[str, Any]  # of Ray Data


@dataclass(frozen=True)
class Job:
    """A checked request. Its pictures are not kept: `request` reads them again.

    place: where it was given, for messages. said: the arguments, without pictures. files, digests: of its pictures, by
    argument. shape: height, width and ddim_steps; requests with equal shapes can be drawn in one batch. key: a digest
    of all that determines the pictures.
    """

    name: str
    place: str
    said: dict[str, Any]
    files: dict[str, Path]
    digests: dict[str, str]
    shape: tuple[int, int, int]
    samples: int
    key: str

    @property
    def outputs(self) -> list[str]:
        """The names of the files with the pictures, such as bird.png and bird_1.png for two samples."""
        return [f"{self.name}.png", *(f"{self.name}_{i}.png" for i in range(1, self.samples))]

    def request(self) -> Request:
        """Read the pictures, and draw the seed if it is -1. Raise ValueError if one has changed, OSError if missing."""
        for name, file in self.files.items():
            if file_digest(file) != self.digests[name]:
                raise ValueError(f"{name}: {file} has changed since the batch began: run the same command again")
        return _request(self.said, self.files)


def make_job(name: str, place: str, said: dict[str, Any], files: dict[str, Path], means: Callable[[int], str]) -> Job:
    try:
        request = _request(said, files)
        digests = {argument: file_digest(file) for argument, file in files.items()}
        steps, samples = request.ddim_steps, request.num_samples
        said = {argument: getattr(request, argument) for argument in said} | {"seed": said["seed"]}  # -1 stays
        key = digest(json.dumps([said, digests, means(steps)], sort_keys=True))
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{place}: {error}") from error
    return Job(name, place, said, files, digests, (*request.size, steps), samples, key)


def _request(said: dict[str, Any], files: dict[str, Path]) -> Request:
    pictures = {}
    for argument, file in files.items():
        try:
            pictures[argument] = read(file)
        except ValueError as error:
            raise ValueError(f"{argument}: {str(error).removeprefix('pictures: ')}") from error
    return Request(**{"input_image": None, **pictures, **said, "seed": drawn(said["seed"])})


def read_group(row: Row) -> Row:
    """Read the pictures of a group. {"group": pickled [Job]} -> {"group": pickled [(Job, Request or sentence)]}.

    Pickled, because Arrow has no type for them; only processes of this batch exchange rows.
    """
    return {"group": pickle.dumps([(job, _read(job)) for job in pickle.loads(row["group"])])}


def _read(job: Job) -> Request | str:
    try:
        return job.request()
    except (ValueError, OSError) as error:
        return sentence(error)


def sentence(error: Exception) -> str:
    return " ".join(str(error).split())
