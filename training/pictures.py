"""python -m training.pictures: writes the pictures that compute_score.py uses by default.

They are the first eight held-out scenes with a bird, not hand-picked and not in the training data. With --scenes N, it
writes N held-out scenes of all kinds instead, each with its caption in a .txt file, for example to search for plans.
"""

import argparse
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path

import cv2
from tqdm import tqdm

from commands import one_line
from files import check_writable, write_whole
from scoring.pictures import DRAWN_BIRDS
from training.recipe import Recipe
from training.scenes.scene import Scene, scene

COUNT = 8


def birds() -> list[Scene]:
    held_out = map(scene, count(Recipe().held_out))
    return list(islice((made for made in held_out if made.kind == "bird"), COUNT))


def write_picture(made: Scene, file: Path) -> None:
    whole = cv2.imencode(".png", made.picture[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    write_whole(file, whole)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=0, help="write this many scenes of all kinds, with captions")
    parser.add_argument("--out", type=Path, help="output folder; required with --scenes, else models/small/pictures")
    options = parser.parse_args(arguments)
    if options.scenes and not options.out:
        parser.error("--scenes needs --out FOLDER, so that the scenes do not mix with the birds that are scored")
    folder = options.out or DRAWN_BIRDS
    with one_line(stopped=f"finished pictures are in {folder}"):
        check_writable(folder)
        if options.scenes:
            write_scenes(options.scenes, folder)
        else:
            for i, made in enumerate(tqdm(birds(), unit="picture"), start=1):
                write_picture(made, folder / f"bird_{i}.png")


def write_scenes(number: int, folder: Path) -> None:
    for i in tqdm(range(number), unit="picture"):
        made = scene(Recipe().held_out + i)
        write_picture(made, folder / f"scene_{i}.png")
        write_whole(folder / f"scene_{i}.txt", f"{made.caption}\n".encode())


if __name__ == "__main__":
    main()
