"""The drawn training pictures are reproducible, recognisable by their edges, and have the colour of their label."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.photographs import _opened, photograph
from training.scenes.backgrounds import BACKGROUNDS
from training.scenes.captions import VOCABULARY
from training.scenes.palette import PALETTE, nearest_colour
from training.scenes.scene import DRAWINGS, Scene, caption_with_colour, scene

DIGEST = """
import hashlib
from training.photographs import photograph
from training.scenes.scene import scene
h = hashlib.sha256()
for seed in range(12):
    h.update(scene(seed).picture.tobytes() + scene(seed).mask.tobytes() + scene(seed).caption.encode())
    h.update(photograph(seed).picture.tobytes() + photograph(seed).caption.encode())
print(h.hexdigest())
"""


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(seed) for seed in range(500)]


def edges(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(cv2.Canny(picture, 100, 200)) > 0


def test_same_seed_same_picture_in_another_process() -> None:
    h = hashlib.sha256()
    for seed in reversed(range(12)):  # pictures drawn before must not matter
        scene(seed), photograph(seed)
    for seed in range(12):
        s, p = scene(seed), photograph(seed)
        h.update(s.picture.tobytes() + s.mask.tobytes() + s.caption.encode())
        h.update(p.picture.tobytes() + p.caption.encode())
    root = Path(__file__).parents[1]
    other = subprocess.run([sys.executable, "-c", DIGEST], cwd=root, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == h.hexdigest()


def test_other_seed_other_picture(scenes: list[Scene]) -> None:
    assert len({hashlib.sha256(s.picture.tobytes()).digest() for s in scenes}) == len(scenes)


def test_shapes(scenes: list[Scene]) -> None:
    for s in scenes:
        assert s.picture.shape == (256, 384, 3)
        assert s.picture.dtype == np.uint8
        assert s.mask.shape == (256, 384)
        assert s.mask.dtype == np.bool_
        assert 0.01 < s.mask.mean() < 0.5, s.caption


def test_every_kind_colour_and_background_occurs(scenes: list[Scene]) -> None:
    assert {s.kind for s in scenes} == set(DRAWINGS)
    assert {s.colour for s in scenes} == set(PALETTE)
    assert {s.background for s in scenes} == set(BACKGROUNDS)
    assert sum(s.kind == "bird" for s in scenes) > 0.25 * len(scenes)


def test_body_has_the_colour_it_is_said_to_have(scenes: list[Scene]) -> None:
    right = [nearest_colour(s.picture[s.mask].mean(axis=0)) == s.colour for s in scenes]
    assert np.mean(right) >= 0.99


def test_colour_changes_nothing_but_the_colour() -> None:
    for seed in range(10):
        versions = {colour: scene(seed, colour) for colour in PALETTE}
        for colour, s in versions.items():
            assert nearest_colour(s.picture[s.mask].mean(axis=0)) == colour
            np.testing.assert_array_equal(s.mask, versions["red"].mask)
            away = cv2.dilate(s.mask.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
            lone = s.picture[away] == versions["red"].picture[away]
            assert lone.mean() > 0.95, (seed, colour)  # a flag or the tip of a wing may extend beyond it


def test_caption_with_colour(scenes: list[Scene]) -> None:
    for s in scenes:
        assert caption_with_colour(s, "orange").count(f"an orange {s.kind}") >= 1
        assert caption_with_colour(s, s.colour) == s.caption or s.colour not in s.caption.split(s.kind)[0]


def test_most_captions_name_the_colour(scenes: list[Scene]) -> None:
    named = np.mean([caption_with_colour(s, s.colour) == s.caption for s in scenes])
    assert 0.78 < named < 0.92


def test_vocabulary_is_closed_and_all_of_it_is_used(scenes: list[Scene]) -> None:
    captions = [s.caption for s in scenes] + [photograph(seed).caption for seed in range(200)]
    captions += [caption_with_colour(s, "orange") for s in scenes]
    words = {word for caption in captions for word in caption.split()}
    assert words == set(VOCABULARY)
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_edges_show_the_object_and_are_few(scenes: list[Scene]) -> None:
    density, recall = [], []
    for s in scenes[:100]:
        found = edges(s.picture)
        body = s.mask.astype(np.uint8)
        contour = (body - cv2.erode(body, np.ones((3, 3), np.uint8))) > 0
        contour[[0, -1]] = contour[:, [0, -1]] = False  # the border of the picture is not an edge
        near = cv2.distanceTransform((~found).astype(np.uint8), cv2.DIST_L2, 5) <= 3
        density.append(found.mean())
        recall.append(near[contour].mean())
    assert np.mean(recall) > 0.95
    assert np.min(recall) > 0.7
    assert 0.02 < np.mean(density) < 0.08
    assert np.max(density) < 0.12


def test_pictures_are_smooth_enough_for_a_small_autoencoder(scenes: list[Scene]) -> None:
    """The best linear code with 12 of the 192 numbers per block reaches 30 dB."""
    pictures = np.stack([s.picture for s in scenes[:40]]).astype(np.float32)
    blocks = pictures.reshape(40, 32, 8, 48, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 192)
    spread = np.linalg.eigvalsh(np.cov(blocks.T))
    assert 10 * np.log10(255**2 / (spread[:-12].sum() / 192)) > 30


def test_a_picture_is_made_in_little_time() -> None:
    """A picture takes 12 ms on an idle core. The bound tolerates busy machines but detects a tenfold slowdown."""
    before = time.process_time()
    for seed in range(20):
        scene(seed)
    assert (time.process_time() - before) / 20 < 0.06


def test_photographs() -> None:
    for seed in range(60):
        p = photograph(seed)
        assert p.picture.shape == (256, 384, 3)
        assert p.picture.dtype == np.uint8
        assert p.picture.std() > 8  # not a uniform area
    grey, coloured = 0, 0
    for seed in range(60):
        spread = np.ptp(photograph(seed).picture.astype(int), axis=2).max()
        grey, coloured = grey + (spread == 0), coloured + (spread > 40)
    assert grey > 5
    assert coloured > 25


def test_a_missing_photograph_says_what_to_install() -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.png cannot be read .*: it is part of scikit-image, install"):
        _opened("absent.png")
