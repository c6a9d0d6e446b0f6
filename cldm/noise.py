"""Draws the original's noise: for a given seed, the same starting latent and the same noise in every step."""

import torch
from torch import Tensor

from plans.plan import Evaluation


def draw_noise(seed: int, steps: tuple[Evaluation, ...], x: Tensor, noise: Tensor) -> None:
    """Fill x with the starting latent, and noise[k] with the total noise from evaluation k up to evaluation k + 1.

    Samples in the original's order: the latent, then one z per DDIM step, whether or not the step calls the network.
    With eta = 0, noise is zero and no z is sampled.
    Uses its own generator, which gives the same numbers as the global generator with this seed. The global generator
    does not change.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    x.normal_(generator=generator)
    noise.zero_()
    if any(weight for step in steps for weight in step.noise):
        for total, step in zip(noise, steps, strict=True):
            for weight in step.noise:
                total += weight * torch.randn(x.shape, generator=generator, device=x.device)
