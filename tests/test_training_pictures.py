"""python -m training.pictures writes the shipped birds, and scenes with captions in the format of `build plans`."""

from pathlib import Path

import numpy as np
import pytest

from scoring.pictures import DRAWN_BIRDS, find_captions, find_pictures
from training.pictures import birds, main
from training.recipe import Recipe
from training.scenes.scene import scene


def test_the_birds_that_ship_are_those_that_are_drawn() -> None:
    for picture, made in zip(find_pictures(DRAWN_BIRDS).values(), birds(), strict=True):
        difference = np.abs(picture[:, :, ::-1].astype(int) - made.picture)  # BGR to RGB
        assert (difference <= 2).mean() > 0.99, "the shipped birds differ by more than OpenCV versions do"


def test_scenes_are_written_with_their_captions(tmp_path: Path) -> None:
    main(["--scenes", "3", "--out", str(tmp_path)])
    names = ["scene_0", "scene_1", "scene_2"]
    pictures, captions = find_pictures(tmp_path), find_captions(tmp_path)
    assert list(pictures) == sorted(captions) == names
    for name, made in zip(names, map(scene, range(Recipe().held_out, Recipe().held_out + 3)), strict=True):
        np.testing.assert_array_equal(pictures[name][:, :, ::-1], made.picture)
        assert captions[name] == made.caption
    assert len(set(captions.values())) == 3, "plans need distinct captions to split the pictures into folds"


def test_scenes_need_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--scenes", "3"])
    assert "--scenes needs --out FOLDER" in capsys.readouterr().err
