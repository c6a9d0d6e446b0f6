"""Training UNet, ControlNet and text encoder together: predict the noise in a latent from edges and words."""

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from cldm.model import ControlLDM
from training.fit import moving_average, optimizer
from training.recipe import Recipe
from training.vae import as_input


@dataclass(frozen=True)
class Examples:
    """What the networks learn from, on their device."""

    latents: Tensor  # float16 [n, 4, h, w]
    edges: Tensor  # uint8 [n, 8h, 8w], 0 or 255
    tokens: Tensor  # [2, n, 77]: the caption, and the caption with a_prompt behind it
    no_prompt: Tensor  # [2, 77]: the empty prompt, and n_prompt


class Networks(nn.Module):
    """The parts that are trained here, without the autoencoder."""

    def __init__(self, model: ControlLDM) -> None:
        super().__init__()
        self.unet, self.control, self.text = model.unet, model.control, model.text

    def forward(self, x: Tensor, hint_image: Tensor, t: Tensor, tokens: Tensor, strength: Tensor) -> Tensor:
        context = self.text(tokens)
        residuals = self.control(x, hint_image, t, context)
        return self.unet(x, t, context, [strength * residual for residual in residuals])


class DiffusionTraining(pl.LightningModule):
    """Batches are indices into the examples, which stay out of the checkpoints."""

    abar: Tensor

    def __init__(self, model: ControlLDM, recipe: Recipe, lr: float, examples: Examples) -> None:
        super().__init__()
        self.networks, self.recipe, self.lr, self.examples = Networks(model), recipe, lr, examples
        self.average = moving_average(self.networks, recipe.ema_decay)
        self.register_buffer("abar", model.alphas_cumprod.clone())
        on_gpu = examples.latents.is_cuda
        self.predict = torch.compile(Networks.forward) if on_gpu else Networks.forward

    def training_step(self, batch: list[Tensor]) -> Tensor:
        latent, hint_image, tokens = self._draw(batch[0].to(self.examples.latents.device))
        n, device = len(latent), latent.device
        t = torch.randint(len(self.abar), (n,), device=device)
        abar = self.abar[t].view(n, 1, 1, 1)
        eps = torch.randn_like(latent)
        x = abar.sqrt() * latent + (1 - abar).sqrt() * eps
        strength = (torch.rand(n, 1, 1, 1, device=device) >= self.recipe.control_dropout).float()
        predicted = self.predict(self.networks, x, hint_image, t, tokens, strength).float()
        error = F.mse_loss(predicted, eps, reduction="none").mean((1, 2, 3))
        self.log("loss", error.mean(), prog_bar=True)
        signal_to_noise = abar / (1 - abar)
        return (error * (self.recipe.snr_limit / signal_to_noise.flatten()).clamp(max=1)).mean()

    def on_train_batch_end(self, *_: object) -> None:
        self.average.update_parameters(self.networks)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimizer(self, self.networks, self.lr, self.recipe.warmup)

    def _draw(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, edges [n, 3, 8h, 8w] in 0..1 and tokens; with more words or without prompt by chance."""
        examples, n = self.examples, len(index)
        worded, which = (torch.randint(2, (n,), device=index.device) for _ in range(2))
        dropped = torch.rand(n, 1, device=index.device) < self.recipe.prompt_dropout
        tokens = torch.where(dropped, examples.no_prompt[which], examples.tokens[worded, index])
        hint_image = (examples.edges[index].float() / 255)[:, None].expand(-1, 3, -1, -1)
        return examples.latents[index].float(), hint_image, tokens


def start_small(model: ControlLDM) -> None:
    """Control and prediction begin at zero, embeddings small; all else as PyTorch initialises it. In place."""
    zero = [*model.control.zero_convs.modules(), *model.control.middle_block_out.modules(), model.unet.out[2]]
    for module in zero:
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(torch.as_tensor(module.bias))
    for embedding in (model.text.embeddings.token_embedding, model.text.embeddings.position_embedding):
        nn.init.normal_(embedding.weight, std=0.02)


@torch.no_grad()
def encode_all(model: ControlLDM, pictures: Tensor, shrink: int) -> Tensor:
    """Mean latents of the pictures (uint8 [n, h, w, 3]), shrunk by a whole number: float16 [n, 4, h / 8, w / 8]."""
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=pictures.is_cuda):
        shrunk = (F.avg_pool2d(as_input(part), shrink) for part in pictures.split(64))
        return torch.cat([model.vae.encode(picture).half() for picture in shrunk])
