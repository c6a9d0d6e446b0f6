"""Training the autoencoder: sharp reconstructions, and latents of unit variance."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ldm.vae import VAE
from training.fit import moving_average, optimizer
from training.recipe import Recipe


class VAETraining(pl.LightningModule):
    """Batches are indices into `pictures`, uint8 [n, 256, 384, 3], which stays out of the checkpoints."""

    def __init__(self, vae: VAE, recipe: Recipe, pictures: Tensor) -> None:
        super().__init__()
        self.vae, self.recipe, self.pictures = vae, recipe, pictures
        self.average = moving_average(vae, recipe.ema_decay)
        self.loss = torch.compile(vae_loss) if pictures.is_cuda else vae_loss

    def training_step(self, batch: list[Tensor]) -> Tensor:
        picture = as_input(self.pictures[batch[0].to(self.pictures.device)])
        reconstruction, kl, slope = self.loss(self.vae, picture)
        self.log_dict({"l1": reconstruction, "kl": kl}, prog_bar=True)
        return reconstruction + self.recipe.kl_weight * kl + self.recipe.slope_weight * slope

    def on_train_batch_end(self, *_: object) -> None:
        self.average.update_parameters(self.vae)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimizer(self, self.vae, self.recipe.vae_lr, self.recipe.warmup)


def as_input(pictures: Tensor) -> Tensor:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w] in -1..1."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def vae_loss(vae: VAE, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean absolute error, KL divergence to the unit normal per latent value, and the error of the slopes."""
    mean, log_variance = vae.moments(picture)
    z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    difference = vae.decode(z * vae.scale_factor).float() - picture
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).float().mean()
    slope = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return difference.abs().mean() + F.mse_loss(difference, torch.zeros_like(difference)), kl, slope


@torch.no_grad()
def normalize_latents(vae: VAE, pictures: Tensor) -> None:
    """Make the scaled latents of `pictures` zero in mean and one in variance, channel by channel, in place.

    An affine map behind the encoder and its inverse before the decoder, folded into their 1x1 convolutions: the
    reconstructions stay what they are.
    """
    latents = torch.cat([vae.encode(as_input(batch)) for batch in pictures.split(32)])
    mean, std = latents.mean((0, 2, 3)) / vae.scale_factor, latents.std((0, 2, 3))
    after, before, c = vae.quant_conv, vae.post_quant_conv, len(mean)
    assert after.bias is not None
    assert before.bias is not None
    # The first half of the channels are means, the second log variances.
    after.weight[:c] /= std[:, None, None, None]
    after.bias[:c] = (after.bias[:c] - mean) / std
    after.bias[c:] -= 2 * std.log()
    before.bias += before.weight[:, :, 0, 0] @ mean
    before.weight *= std[None, :, None, None]
