"""Compares pictures in memory with base pictures, after saving each as JPEG as in the contest's scoring run."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2

from scoring.distance import Picture, feature_distance, features, read_picture, ssim_of
from scoring.inception import Inception


class Judge:
    """Keeps the base pictures and their features, so that many pictures can be compared with them."""

    def __init__(self, bases: Sequence[Picture], inception: Inception) -> None:
        self.inception = inception
        self.bases = _through_jpeg(bases)
        self.features = [features(base, inception) for base in self.bases]  # one at a time, as pytorch-fid does

    def __call__(self, pictures: Sequence[Picture]) -> tuple[list[float], list[float]]:
        """Return two lists with PD (or PD*) and SSIM of each picture. pictures: RGB [h, w, 3], in the bases' order."""
        files = _through_jpeg(pictures)
        apart = [
            feature_distance(base, features(file, self.inception))
            for base, file in zip(self.features, files, strict=True)
        ]
        return apart, [ssim_of(base, file) for base, file in zip(self.bases, files, strict=True)]


def _through_jpeg(pictures: Sequence[Picture]) -> list[Picture]:
    """Write each picture as JPEG and read it back. The channels are written as if they were BGR, as in the contest."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.jpg"
        read = []
        for picture in pictures:
            cv2.imwrite(str(file), picture)
            read.append(read_picture(file))
        return read
