"""The numbers of the training run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Held-out scenes begin at seed `held_out`, far behind those that are trained on."""

    scenes: int = 48_000
    photographs: int = 6_000
    held_out: int = 10_000_000
    seed: int = 0
    a_prompt: str = "best quality, extremely detailed"
    n_prompt: str = "longbody, lowres, bad anatomy, bad hands, missing fingers"

    vae_steps: int = 4_500
    vae_batch: int = 24
    vae_lr: float = 1e-3
    kl_weight: float = 1e-4
    slope_weight: float = 0.5  # of the difference between neighbouring pixels, which keeps edges sharp

    diffusion_steps: int = 9_000
    diffusion_batch: int = 256
    diffusion_lr: float = 1e-3
    prompt_dropout: float = 0.12  # half to the empty prompt, half to n_prompt: both stand for "no prompt" in guidance
    control_dropout: float = 0.15  # keeps the UNet a model of its own, as strength 0 asks
    ema_decay: float = 0.999
