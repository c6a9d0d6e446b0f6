"""Pictures in memory beside base pictures, each through a JPEG file as in the contest's scoring run."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2

from scoring.distance import Picture, feature_distance, features, read_picture, ssim_of
from scoring.inception import Inception


class Judge:
    """Keeps the base pictures and their features, so that many others can be compared with them."""

    def __init__(self, bases: Sequence[Picture], inception: Inception) -> None:
        self.inception = inception
        self.bases = _through_jpeg(bases)
        self.features = [features(base, inception) for base in self.bases]  # one at a time, as pytorch-fid does

    def __call__(self, pictures: Sequence[Picture]) -> tuple[list[float], list[float]]:
        """Of each picture, RGB [h, w, 3], in the order of the bases: PD (or PD*), and SSIM."""
        files = _through_jpeg(pictures)
        apart = [
            feature_distance(base, features(file, self.inception))
            for base, file in zip(self.features, files, strict=True)
        ]
        return apart, [ssim_of(base, file) for base, file in zip(self.bases, files, strict=True)]


def _through_jpeg(pictures: Sequence[Picture]) -> list[Picture]:
    """RGB data written as BGR, as the contest's script does."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.jpg"
        read = []
        for picture in pictures:
            cv2.imwrite(str(file), picture)
            read.append(read_picture(file))
        return read
