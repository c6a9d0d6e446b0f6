"""Reads and checks the requests of a batch: a folder of pictures, or a list with one JSON object per line."""

import logging
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from cldm.progress import Progress
from cldm.request import CONTEST
from reading import CONTROL, parse_object, path_text, read_regular, shown
from scoring.pictures import find_captions, find_files
from serving.batch_job import Job, make_job

log = logging.getLogger(__name__)

PICTURES = ("input_image", "edges")  # arguments that are paths in a list
LARGEST_LIST = 2**28  # bytes
LONGEST_NAME = 200  # bytes; temporary files have 14 more, and file systems allow 255


def read_jobs(inputs: Path, defaults: dict[str, Any], means: Callable[[int], str]) -> list[Job]:
    """Return the requests of a folder or list, all of them checked.

    defaults: the arguments that a list may override. means: returns, for a number of DDIM steps, all else that
    determines the pictures, or raises ValueError if the runtime cannot draw with so many.
    Raise ValueError with the place and the argument.
    """
    if not inputs.is_dir() and not inputs.is_file():
        raise ValueError(
            f"INPUTS: got {inputs}, expected a folder of pictures, or a list with one JSON object per line"
        )
    found = list((_of_folder if inputs.is_dir() else _of_list)(inputs))
    jobs = [
        make_job(name, place, defaults | said, files, means)
        for name, place, said, files in Progress(found, desc="checking", unit="request", delay=2, leave=False)
    ]
    _check_outputs(jobs)
    return jobs


Given = tuple[str, str, dict[str, Any], dict[str, Path]]  # name, place, arguments, pictures


def _of_folder(folder: Path) -> Iterator[Given]:
    captions, files = find_captions(folder), find_files(folder)
    if lone := sorted(captions.keys() - {file.stem for file in files}):
        log.info("INPUTS: ignored %d captions without a picture in %s, such as %s", len(lone), folder, shown(lone[0]))
    for file in files:
        prompt = {"prompt": captions[file.stem]} if file.stem in captions else {}
        yield file.stem, str(file), prompt, {"input_image": file}


def _of_list(path: Path) -> Iterator[Given]:
    try:
        lines = read_regular(path, LARGEST_LIST).splitlines()
    except OSError as error:
        raise ValueError(f"INPUTS: {path} cannot be read ({error.strerror}): give a list of requests") from error
    if not any(line.strip() for line in lines):
        raise ValueError(f"INPUTS: {path} has no requests: write one JSON object per line")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _of_line(path, number, line)


def _of_line(path: Path, number: int, line: bytes) -> Given:
    place = f"{path}, line {number}"
    try:
        said = parse_object(line)
    except ValueError as error:
        raise ValueError(f'{place} {error}: write a JSON object such as {{"input_image": "bird.png"}}') from error
    try:
        name = _checked_name(said.pop("name", str(number)))
        files = {key: _beside(path, key, said.pop(key)) for key in PICTURES if said.get(key) is not None}
        said = {key: value for key, value in said.items() if key not in PICTURES}  # null: none
        if unknown := sorted(said.keys() - CONTEST.keys()):
            raise ValueError(f"{shown(unknown[0])}: expected only name, {', '.join((*PICTURES, *CONTEST))}")
        if not files:
            raise ValueError("input_image: got none, expected the path of a picture here or in edges")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: {error}") from error
    return name, place, said, files


def _checked_name(name: object) -> str:
    expected = f"expected a file name without suffix, of at most {LONGEST_NAME} bytes"
    if not isinstance(name, str):
        raise TypeError(f"name: got {shown(name)}, {expected}")
    text = name.encode(errors="replace")
    usable = name.strip() and not name.startswith(".") and not CONTROL.search(name) and not {"/", "\\"} & set(name)
    if not usable or len(text) > LONGEST_NAME or text.decode() != name:
        raise ValueError(f"name: got {shown(name)}, {expected}, that does not begin with a dot")
    return name


def _beside(path: Path, argument: str, value: object) -> Path:
    """Return the path of a picture. A list is not trusted to name files elsewhere than below its own folder."""
    inside = PurePath(path_text(argument, value))
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"{argument}: got {shown(value)}, expected a path below the folder of the list, without ..")
    return path.parent / inside


def _check_outputs(jobs: Sequence[Job]) -> None:
    """Raise ValueError if two requests would write the same file, also on file systems that ignore case."""
    seen: dict[str, Job] = {}
    for job in jobs:
        for output in job.outputs:
            other = seen.setdefault(unicodedata.normalize("NFC", output).casefold(), job)
            if other is not job:
                raise ValueError(
                    f"{job.place}: name: {shown(job.name)} would write {output}, as {other.place} does: choose "
                    "another name"
                )
