"""Trains the autoencoder, and scales its latents to mean 0 and variance 1."""

from typing import cast

import torch
from torch import Tensor, nn

from ldm.vae import VAE
from training.fit import Training
from training.recipe import Recipe


class VAETraining(Training):
    def __init__(self, vae: VAE, recipe: Recipe, pictures: Tensor) -> None:
        """pictures: uint8 [n, 256, 384, 3]; kept out of the checkpoints."""
        super().__init__(vae, recipe.vae_lr, recipe.warmup, recipe.ema_decay, anneal=True)
        self.recipe, self.pictures = recipe, pictures

    def loss(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the total loss, and two of its terms for the log.

        The total is the absolute error, the squared error, and, weighted, the slope error and the mean KL divergence
        of a latent value from the unit normal.
        """
        vae, pictures = cast(VAE, network), self.pictures
        index = torch.randint(len(pictures), (self.recipe.vae_batch,), device=pictures.device)
        picture = as_input(pictures[index])
        mean, log_variance = vae.moments(picture.to(next(vae.parameters()).dtype))
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = vae.decode(z * vae.scale_factor).float() - picture
        mean, log_variance = mean.float(), log_variance.float()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        l1, slope = error.abs().mean(), error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        total = l1 + (error**2).mean() + self.recipe.kl_weight * kl + self.recipe.slope_weight * slope
        return {"loss": total, "l1": l1, "kl": kl}


def as_input(pictures: Tensor) -> Tensor:
    """Convert uint8 [n, h, w, 3] to float32 [n, 3, h, w] in -1..1."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def normalize_latents(vae: VAE, pictures: Tensor) -> None:
    """Change `vae` in place so that each channel of its scaled latents, over `pictures`, has mean 0 and variance 1.

    An affine map after the encoder is folded into the encoder's last 1x1 convolution, and its inverse into the
    decoder's first. Reconstructions do not change.
    """
    latents = torch.cat([vae.encode(as_input(batch)) for batch in pictures.split(32)])
    mean, std = latents.mean((0, 2, 3)) / vae.scale_factor, latents.std((0, 2, 3))
    after, before, c = vae.quant_conv, vae.post_quant_conv, len(mean)
    assert after.bias is not None
    assert before.bias is not None
    # The first half of the channels are means, the second half log variances.
    after.weight[:c] /= std[:, None, None, None]
    after.bias[:c] = (after.bias[:c] - mean) / std
    after.bias[c:] -= 2 * std.log()
    before.bias += before.weight[:, :, 0, 0] @ mean
    before.weight *= std[None, :, None, None]
