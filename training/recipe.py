"""Settings of the training run that produced the shipped model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run. Fields named *_minutes are time budgets; a budget of zero skips the phase.

    Held-out scenes start at seed `held_out`, far above the seeds used for training.
    """

    scenes: int = 30_000
    photographs: int = 3_000
    held_out: int = 10_000_000
    seed: int = 0
    a_prompt: str = "best quality, extremely detailed"
    n_prompt: str = "longbody, lowres, bad anatomy, bad hands, missing fingers"
    ema_decay: float = 0.999
    warmup: int = 200  # steps until the full learning rate

    vae_minutes: float = 2.5
    vae_batch: int = 24
    vae_lr: float = 1e-3
    kl_weight: float = 1e-4
    slope_weight: float = 0.5  # for differences between neighbouring pixels; keeps edges sharp

    # Diffusion first trains on pictures of half the height and width, in batches twice as large.
    half_minutes: float = 5.0
    half_batch: int = 256
    half_lr: float = 1e-3
    full_minutes: float = 11.7
    full_batch: int = 128
    full_lr: float = 7e-4
    prompt_dropout: float = 0.12  # half empty prompt, half n_prompt: guidance uses either as "no prompt"
    control_dropout: float = 0.15  # share of examples at strength 0: the UNet must work without ControlNet
    snr_limit: float = 5.0  # Min-SNR (Hang et al. 2023): nearly clean latents must not dominate the loss

    def phases(self) -> list["Phase"]:
        """Return the diffusion phases in order. Only the last one anneals; averaging replaces it in the first."""
        half = Phase("half", 2, self.half_minutes, self.half_batch, self.half_lr, anneal=False)
        return [half, Phase("full", 1, self.full_minutes, self.full_batch, self.full_lr, anneal=True)]


@dataclass(frozen=True)
class Phase:
    """Diffusion training at one picture size."""

    name: str
    shrink: int  # divisor of the pictures' height and width
    minutes: float
    batch: int
    lr: float
    anneal: bool  # whether the learning rate falls to zero by the end of the time
