"""Creates all training pictures with their edges and captions, and keeps them on disk."""

import json
import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from files import write_whole
from reading import read_object
from training.photographs import photograph
from training.recipe import Recipe
from training.scenes.canvas import HEIGHT, WIDTH
from training.scenes.scene import scene

CHUNK = 50  # pictures per worker task
ARRAYS = {"pictures": (HEIGHT, WIDTH, 3), "edges": (HEIGHT, WIDTH), "half_edges": (HEIGHT // 2, WIDTH // 2)}


@dataclass(frozen=True)
class Corpus:
    """n pictures with edges and captions; the arrays are memory-mapped."""

    pictures: NDArray[np.uint8]  # RGB [n, 256, 384, 3]
    edges: NDArray[np.uint8]  # [n, 256, 384], 0 or 255
    half_edges: NDArray[np.uint8]  # [n, 128, 192], of the pictures at half height and width
    captions: list[str]


def load_corpus(folder: Path, recipe: Recipe) -> Corpus:
    """Return the corpus in `folder`. Create it first, on all cores, if it is missing, incomplete or of another size."""
    count = recipe.scenes + recipe.photographs
    listing = folder / "captions.json"
    try:
        known = read_object(listing) if listing.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{listing} {error}: delete it to create the pictures again") from error
    if known.get("scenes") != recipe.scenes or known.get("photographs") != recipe.photographs:
        folder.mkdir(parents=True, exist_ok=True)
        listing.unlink(missing_ok=True)
        known = {"scenes": recipe.scenes, "photographs": recipe.photographs, "captions": _make(folder, recipe, count)}
        write_whole(listing, json.dumps(known).encode())  # last: this file marks the arrays as complete
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    return Corpus(**arrays, captions=known["captions"])


def _make(folder: Path, recipe: Recipe, count: int) -> list[str]:
    for name, shape in ARRAYS.items():
        open_memmap(folder / f"{name}.npy", "w+", np.uint8, (count, *shape))
    tasks = [(folder, recipe, begin, min(begin + CHUNK, count)) for begin in range(0, count, CHUNK)]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the workers inherit it: only this process reacts to Ctrl-C
    with multiprocessing.get_context("spawn").Pool(min(os.cpu_count() or 1, len(tasks)), _one_thread) as pool:
        signal.signal(signal.SIGINT, before)
        made = list(tqdm(pool.imap(_fill, tasks), total=len(tasks), desc="pictures", unit=f"x {CHUNK}"))
    return [caption for captions in made for caption in captions]


def _fill(task: tuple[Path, Recipe, int, int]) -> list[str]:
    """Create pictures `begin` to `end` - 1, write them into the arrays and return their captions."""
    folder, recipe, begin, end = task
    pictures, edges, half_edges = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ARRAYS)
    captions = []
    for i in range(begin, end):
        made = scene(i) if i < recipe.scenes else photograph(i - recipe.scenes)
        pictures[i] = made.picture
        edges[i] = cv2.Canny(made.picture, *thresholds(i))
        half = cv2.resize(made.picture, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
        half_edges[i] = cv2.Canny(half, *thresholds(i))
        captions.append(made.caption)
    return captions


def thresholds(i: int) -> tuple[float, float]:
    """Return canny's thresholds for picture i: 100 and 200 for 70 % of the pictures, otherwise random.

    The network must not depend on one pair of thresholds.
    """
    rng = np.random.default_rng([0xCA77, i])
    low = 100.0 if rng.random() < 0.7 else float(rng.uniform(50, 150))
    return low, 2 * low


def _one_thread() -> None:
    cv2.setNumThreads(1)  # there is already one process per core
