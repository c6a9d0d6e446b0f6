import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoring.distance import feature_distance, perceptual_distance, psnr, read_picture, ssim
from scoring.inception import Inception, seeded_weights
from scoring.inception_v3 import InceptionV3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: on shared cores, several threads wait for each other and take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def inception() -> Inception:
    network = InceptionV3()
    network.load_state_dict(seeded_weights())
    return Inception(network.eval(), None, real=False)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(picture(), tmp_path / "base.jpg")


def picture(side: int = 64) -> np.ndarray:
    """Return a different wave in each channel: uint8 [side, side, 3]."""
    rows, columns = np.mgrid[:side, :side]
    waves = [np.sin(rows / 5), np.cos(columns / 7), np.sin((rows + columns) / 9)]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def save(content: np.ndarray, path: Path, quality: int = 95) -> Path:
    Image.fromarray(content).save(path, quality=quality)
    return path


@pytest.mark.filterwarnings("error")
def test_identical_pictures(base: Path, inception: Inception) -> None:
    assert perceptual_distance(base, base, inception) == 0
    assert ssim(base, base) == 1
    assert psnr(base, base) == math.inf


def test_distance_is_the_norm_of_the_feature_difference(base: Path, tmp_path: Path, inception: Inception) -> None:
    other = save(picture()[:, ::-1], tmp_path / "other.jpg")
    pixels = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in (base, other)]
    features = inception(torch.stack(pixels)).double()
    expected = math.sqrt(float(((features[0] - features[1]) ** 2).sum()))
    assert expected > 0.1
    assert perceptual_distance(base, other, inception) == pytest.approx(expected, rel=1e-5)


def test_worse_picture_has_a_larger_distance(base: Path, tmp_path: Path, inception: Inception) -> None:
    good, bad = (save(picture(), tmp_path / f"{quality}.jpg", quality) for quality in (80, 5))
    assert 0 < perceptual_distance(base, good, inception) < perceptual_distance(base, bad, inception)
    assert 1 > ssim(base, good) > ssim(base, bad)
    assert math.inf > psnr(base, good) > psnr(base, bad)


def test_psnr_of_a_known_error(tmp_path: Path) -> None:
    grey = np.full((16, 16, 3), 100, np.uint8)
    first, second = save(grey, tmp_path / "a.png"), save(grey + np.uint8(10), tmp_path / "b.png")
    assert psnr(first, second) == pytest.approx(20 * math.log10(255 / 10))


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    assert read_picture(save(red, tmp_path / "red.png")).tolist() == red.tolist()
    assert read_picture(save(red[..., 0], tmp_path / "grey.png")).tolist() == np.full((8, 8, 3), 200).tolist()


def test_pictures_of_different_sizes_are_rejected(base: Path, tmp_path: Path, inception: Inception) -> None:
    small = save(picture(32), tmp_path / "small.jpg")
    for compare in (ssim, psnr, lambda a, b: perceptual_distance(a, b, inception)):
        with pytest.raises(ValueError, match=r"base\.jpg is 64x64 and .*small\.jpg is 32x32"):
            compare(base, small)


def test_error_names_an_unreadable_file(base: Path, tmp_path: Path) -> None:
    text, torn = tmp_path / "text.jpg", tmp_path / "torn.jpg"
    text.write_text("not a picture")
    torn.write_bytes(base.read_bytes()[:600])
    for path in (text, torn):
        with pytest.raises(OSError, match=rf"{path.name}: expected a picture"):
            read_picture(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_picture(tmp_path / "absent.jpg")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_give_no_distance(value: float) -> None:
    with pytest.raises(ValueError, match="features that are not finite: replace the file of its weights"):
        feature_distance(torch.full((2048,), value), torch.zeros(2048))
    with pytest.raises(ValueError, match="features that are not finite"):
        feature_distance(torch.full((2048,), value), torch.full((2048,), value))
