"""The original's noise: the same seed gives the same latent and the same noise of every step."""

import torch
from torch import Tensor

from plans.plan import Evaluation


def draw_noise(seed: int, steps: tuple[Evaluation, ...], x: Tensor, noise: Tensor) -> None:
    """Fill x with the starting latent, and noise[k] with all that the updates up to evaluation k + 1 add.

    Draws in the original's order: the latent first, then one z per DDIM step, whether the step calls the network or
    not. A generator of its own gives what seeding the global one would, and leaves that one alone.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    x.normal_(generator=generator)
    noise.zero_()
    if any(weight for step in steps for weight in step.noise):
        for total, step in zip(noise, steps, strict=True):
            for weight in step.noise:
                total += weight * torch.randn(x.shape, generator=generator, device=x.device)
