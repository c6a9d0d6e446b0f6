import cv2
import numpy as np
import pytest
import torch

from cldm.canny import Picture, canny, hint_image, hwc3, resize, target_size

SIZES = [(256, 384), (255, 383), (37, 91), (91, 37), (130, 131), (96, 160), (600, 401), (32, 32)]


def noise(*shape: int) -> Picture:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def waves(height: int, width: int) -> Picture:
    """Return three different smooth channels with edges of many strengths."""
    rows, columns = np.mgrid[:height, :width]
    channels = [np.sin(rows * columns / 300), np.cos(columns / 7), np.sin((rows + columns) / 4)]
    return (127 + 120 * np.stack(channels, axis=-1)).astype(np.uint8)


def test_grey_becomes_three_equal_channels() -> None:
    grey = noise(5, 7)
    for picture in (grey, grey[:, :, None]):
        assert hwc3(picture).dtype == np.uint8
        assert np.array_equal(hwc3(picture), np.stack([grey] * 3, axis=-1))


def test_colour_is_unchanged() -> None:
    picture = noise(5, 7, 3)
    assert np.array_equal(hwc3(picture), picture)


@pytest.mark.parametrize(("alpha", "expected"), [(255, (200, 100, 0)), (0, (255, 255, 255)), (51, (244, 224, 204))])
def test_alpha_is_blended_over_white(alpha: int, expected: tuple[int, ...]) -> None:
    picture = np.array([[[200, 100, 0, alpha]]], dtype=np.uint8)
    assert hwc3(picture).tolist() == [[list(expected)]]
    assert hwc3(picture).dtype == np.uint8


@pytest.mark.parametrize("resolution", [64, 96, 256, 400])
@pytest.mark.parametrize("size", SIZES)
def test_resize_is_the_original_formula(size: tuple[int, int], resolution: int) -> None:
    """Scale both sides by k = resolution / min(H, W), to multiples of 64; LANCZOS4 if k > 1, else AREA."""
    height, width = size
    k = float(resolution) / min(height, width)
    expected = int(np.round(height * k / 64.0)) * 64, int(np.round(width * k / 64.0)) * 64
    assert target_size(height, width, resolution) == expected
    method = cv2.INTER_LANCZOS4 if k > 1 else cv2.INTER_AREA
    picture = noise(height, width, 3)
    resized = resize(picture, resolution)
    assert resized.dtype == np.uint8
    assert np.array_equal(resized, cv2.resize(picture, expected[::-1], interpolation=method))


@pytest.mark.parametrize(("low", "high"), [(100, 200), (10, 20), (99.5, 300.25), (200, 100)])
def test_canny_runs_on_the_colour_picture(low: float, high: float) -> None:
    picture = waves(64, 96)
    edges = canny(picture, low, high)
    assert np.array_equal(edges, cv2.Canny(picture, low, high))
    assert edges.dtype == np.uint8
    assert edges.shape == (64, 96)
    assert set(np.unique(edges)) == {0, 255}


def test_the_order_of_the_thresholds_does_not_matter() -> None:
    picture = waves(64, 96)
    assert np.array_equal(canny(picture, 200, 100), canny(picture, 100, 200))
    assert not np.array_equal(canny(picture, 100, 300), canny(picture, 300, 300))


def test_a_negative_threshold_acts_as_zero() -> None:
    picture = waves(64, 96)
    assert np.array_equal(canny(picture, -(2**31), 200), canny(picture, 0, 200))
    assert np.array_equal(canny(picture, -2, -1), canny(picture, 0, 0))


def test_the_largest_threshold_leaves_no_edges() -> None:
    assert not canny(waves(64, 96), 100, 2**31 - 1).any()


def test_canny_finds_edges_of_colour_alone() -> None:
    picture = np.full((32, 32, 3), (200, 40, 40), np.uint8)
    picture[:, 16:] = 40, 40, 200
    assert canny(picture, 100, 200).any()


def test_hint_image() -> None:
    edges = canny(waves(64, 128), 100, 200)
    hint = hint_image(torch.from_numpy(edges)[None])
    assert (hint.dtype, hint.shape) == (torch.float32, (1, 3, 64, 128))
    assert hint.unique().tolist() == [0, 1]
    for channel in hint[0]:
        assert np.array_equal(channel.numpy() * 255, edges)
