"""The files that a scoring run writes, and the checks, before any work, that they overwrite nothing that is read."""

import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2

from files import check_file, leftovers, write_whole
from scoring.distance import Picture, perceptual_distance, psnr, ssim
from scoring.inception import Inception
from scoring.report import PictureScore

KINDS = ("input", "canny", "base", "candidate")


@dataclass(frozen=True)
class Outputs:
    """The folder of a run, and the names of the files in it. shown: pictures in true colours."""

    folder: Path
    with_timeline: bool = False

    @property
    def lock(self) -> Path:
        return self.folder / ".compute_score.lock"

    @property
    def summaries(self) -> list[Path]:
        names = ["score.json", "contact_sheet.png", *(["timeline.png"] if self.with_timeline else [])]
        return [self.folder / name for name in names]

    def remove_summaries(self) -> None:
        """Delete those of an earlier run, with or without a timeline, before its pictures are replaced."""
        for file in Outputs(self.folder, with_timeline=True).summaries:
            file.unlink(missing_ok=True)

    def base(self, name: str) -> Path:
        return self.folder / "base" / f"{name}.jpg"

    def candidate(self, name: str) -> Path:
        return self.folder / f"{name}.jpg"

    def shown(self, name: str) -> list[Path]:
        """Return the files of the four KINDS."""
        return [self.folder / "shown" / f"{name}_{kind}.png" for kind in KINDS]

    def files(self, names: Iterable[str]) -> list[Path]:
        """Return all files of a run with pictures of these names, with the lock, which overwrites and deletes."""
        pictures = [file for name in names for file in (self.base(name), self.candidate(name), *self.shown(name))]
        return [self.lock, *self.summaries, *pictures]

    def score(
        self,
        name: str,
        source: Picture,
        edges: Picture,
        base: Picture,
        candidate: Picture,
        latency_ms: float,
        inception: Inception,
    ) -> PictureScore:
        """Save source (BGR), edges, base and candidate, and compare base with candidate, both RGB, as JPEG files."""
        base_file, file = self.base(name), self.candidate(name)
        for path, picture in zip(
            (base_file, file, *self.shown(name)),
            (base, candidate, source, edges, base[:, :, ::-1], candidate[:, :, ::-1]),
            strict=True,
        ):
            write_whole(path, cv2.imencode(path.suffix, picture)[1].tobytes())
        pd = perceptual_distance(base_file, file, inception)
        return PictureScore(name, pd, ssim(base_file, file), psnr(base_file, file), latency_ms, *self.shown(name))


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path], option: str = "--out") -> None:
    """Raise OSError if an output cannot be written, ValueError if it is the same file as an input (through links too).

    Create the folders of the outputs. option: the one that names the folder of results, for messages.
    """
    read = {key: one for one in inputs for key in _keys(one)}
    for output in outputs:
        for written in (output, *leftovers(output)):
            if same := read.keys() & _keys(written):
                raise ValueError(
                    f"{option}: {output} would overwrite the input {read[same.pop()]}: choose another {option}"
                )
        check_file(output)


def check_apart(out: Path, pictures: Path, option: str = "--out") -> None:
    """Raise ValueError if the folder of results is, contains or lies in the folder of pictures, also through links."""
    if _contains(out, pictures) or _contains(pictures, out):
        raise ValueError(
            f"{option}: {out} is, contains or lies in the folder of the pictures, {pictures}: choose a folder apart "
            "from it, so that no picture is overwritten and no result is read as a picture"
        )


def _contains(folder: Path, path: Path) -> bool:
    """Return whether `folder` is `path` or a folder above it."""
    resolved = Path(os.path.realpath(path))
    return any(_keys(folder) & _keys(one) for one in (resolved, *resolved.parents))


def _keys(path: Path) -> set[Hashable]:
    """Return what all paths to the same file or folder have in common: the path without links, and the inode."""
    real = os.path.realpath(path)  # unlike Path.resolve, it does not raise for links in a circle
    if not path.exists():
        return {real}
    status = path.stat()
    return {real, (status.st_dev, status.st_ino)}
