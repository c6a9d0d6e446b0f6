"""Computes distances between two picture files: PD, SSIM and PSNR."""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from scoring.inception import Inception

Picture = NDArray[np.uint8]  # [h, w, 3] RGB


def perceptual_distance(first: Path, second: Path, inception: Inception) -> float:
    """Return the L2 norm of the difference of the 2048 features: the contest's PD if `inception.real`, else PD*.

    PD equals the distance in float64 between pytorch-fid's activations of the two files, with one picture per batch.
    """
    a, b = (features(picture, inception) for picture in read_pair(first, second))
    return feature_distance(a, b)


def features(picture: Picture, inception: Inception) -> torch.Tensor:
    """Return the features [2048] of one picture as float64 on the CPU."""
    return inception(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].cpu().double()


def feature_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the distance of two features. Raise ValueError if they are so large that it is not finite."""
    distance = float(torch.linalg.vector_norm(first - second))
    if not math.isfinite(distance):
        raise ValueError("the Inception network returned features that are not finite: replace the file of its weights")
    return distance


def ssim(first: Path, second: Path) -> float:
    """Return the structural similarity (Wang et al. 2004), 7x7 window, averaged over RGB: 1 for identical pictures.

    Raise ValueError if the pictures have different sizes, or fewer than 7 pixels in height or width.
    """
    return ssim_of(*read_pair(first, second))


def ssim_of(first: Picture, second: Picture) -> float:
    return float(structural_similarity(first, second, channel_axis=2, data_range=255))


def psnr(first: Path, second: Path) -> float:
    """Return the peak signal-to-noise ratio in dB: math.inf for identical pictures."""
    a, b = read_pair(first, second)
    if np.array_equal(a, b):
        return math.inf
    return float(peak_signal_noise_ratio(a, b, data_range=255))


def read_pair(first: Path, second: Path) -> tuple[Picture, Picture]:
    """Read two pictures of equal size. Raise ValueError if the sizes differ, OSError if a file is not a picture."""
    a, b = read_picture(first), read_picture(second)
    if a.shape != b.shape:
        sizes = " and ".join(f"{path} is {p.shape[1]}x{p.shape[0]}" for path, p in ((first, a), (second, b)))
        raise ValueError(f"pictures of different sizes cannot be compared: {sizes}")
    return a, b


def read_picture(path: Path) -> Picture:
    """Return uint8 [h, w, 3] RGB, decoded by Pillow as in pytorch-fid. Raise OSError if the file cannot be read."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        raise OSError(f"{path}: expected a picture, but it cannot be read ({error})") from error
