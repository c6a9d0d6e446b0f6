"""The numbers of the training run that made the model that ships."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Budgets are minutes of training; a budget of zero skips its phase.

    Held-out scenes begin at seed `held_out`, far behind those that are trained on.
    """

    scenes: int = 30_000
    photographs: int = 3_000
    held_out: int = 10_000_000
    seed: int = 0
    a_prompt: str = "best quality, extremely detailed"
    n_prompt: str = "longbody, lowres, bad anatomy, bad hands, missing fingers"
    ema_decay: float = 0.999
    warmup: int = 200  # steps until the learning rate is full

    vae_minutes: float = 2.5
    vae_batch: int = 24
    vae_lr: float = 1e-3
    kl_weight: float = 1e-4
    slope_weight: float = 0.5  # of the difference between neighbouring pixels, which keeps edges sharp

    # The diffusion learns on pictures of half the height and width first, where a step sees four times as many.
    half_minutes: float = 5.0
    half_batch: int = 256
    half_lr: float = 1e-3
    full_minutes: float = 11.7
    full_batch: int = 128
    full_lr: float = 7e-4
    prompt_dropout: float = 0.12  # half to the empty prompt, half to n_prompt: both stand for "no prompt" in guidance
    control_dropout: float = 0.15  # keeps the UNet a model of its own, as strength 0 asks
    snr_limit: float = 5.0  # Hang et al. 2023, Min-SNR: nearly clean latents do not rule the loss

    def phases(self) -> list["Phase"]:
        """Those of the diffusion. The average stands in for annealing where another phase follows."""
        half = Phase("half", 2, self.half_minutes, self.half_batch, self.half_lr, anneal=False)
        return [half, Phase("full", 1, self.full_minutes, self.full_batch, self.full_lr, anneal=True)]


@dataclass(frozen=True)
class Phase:
    """Diffusion training on pictures of one size."""

    name: str
    shrink: int  # pictures' height and width are divided by this
    minutes: float
    batch: int
    lr: float
    anneal: bool  # the learning rate falls to zero with the time that is left
