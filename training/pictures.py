"""python -m training.pictures: writes the pictures that are scored where nobody brings any.

They are the first eight held-out scenes that show a bird, so nobody chose them and no training saw them.
"""

from itertools import count, islice
from pathlib import Path

import cv2
from tqdm import tqdm

from scoring.files import write_whole
from scoring.pictures import DRAWN_BIRDS
from training.recipe import Recipe
from training.scenes import Scene, scene

COUNT = 8


def birds() -> list[Scene]:
    held_out = map(scene, count(Recipe().held_out))
    return list(islice((made for made in held_out if made.kind == "bird"), COUNT))


def main(folder: Path = DRAWN_BIRDS) -> None:
    for i, made in enumerate(tqdm(birds(), unit="picture"), start=1):
        whole = cv2.imencode(".png", made.picture[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
        write_whole(folder / f"bird_{i}.png", whole)


if __name__ == "__main__":
    main()
