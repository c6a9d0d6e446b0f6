"""Trains UNet, ControlNet and text encoder together to predict the noise in a latent from edges and words."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cldm.model import ControlLDM
from training.fit import Training
from training.recipe import Phase, Recipe
from training.vae import as_input


@dataclass(frozen=True)
class Examples:
    """Training data, on the device of the networks."""

    latents: Tensor  # float16 [n, 4, h, w]
    edges: Tensor  # uint8 [n, 8h, 8w], 0 or 255
    tokens: Tensor  # [2, n, 77]: the caption, and the caption followed by a_prompt
    no_prompt: Tensor  # [2, 77]: the empty prompt, and n_prompt


class Networks(nn.Module):
    """The networks trained here: all except the autoencoder."""

    def __init__(self, model: ControlLDM) -> None:
        super().__init__()
        self.unet, self.control, self.text = model.unet, model.control, model.text

    def forward(self, x: Tensor, hint_image: Tensor, t: Tensor, tokens: Tensor, strength: Tensor) -> Tensor:
        context = self.text(tokens)
        residuals = self.control(x, hint_image, t, context)
        return self.unet(x, t, context, [strength * residual for residual in residuals])


class DiffusionTraining(Training):
    abar: Tensor

    def __init__(self, model: ControlLDM, recipe: Recipe, phase: Phase, examples: Examples) -> None:
        """examples: kept out of the checkpoints."""
        super().__init__(Networks(model), phase.lr, recipe.warmup, recipe.ema_decay, phase.anneal)
        self.recipe, self.batch, self.examples = recipe, phase.batch, examples
        self.register_buffer("abar", model.alphas_cumprod.clone())

    def loss(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the squared error of the predicted noise, weighted by Min-SNR, and the unweighted one for the log."""
        latent, hint_image, tokens = self._draw()
        n, device, dtype = self.batch, latent.device, next(network.parameters()).dtype
        t = torch.randint(len(self.abar), (n,), device=device)
        abar = self.abar[t].view(n, 1, 1, 1)
        eps = torch.randn_like(latent)
        x = abar.sqrt() * latent + (1 - abar).sqrt() * eps
        strength = (torch.rand(n, 1, 1, 1, device=device) >= self.recipe.control_dropout).to(dtype)
        predicted = network(x.to(dtype), hint_image.to(dtype), t, tokens, strength).float()
        error = F.mse_loss(predicted, eps, reduction="none").mean((1, 2, 3))
        signal_to_noise = (abar / (1 - abar)).flatten()
        weighted = error * (self.recipe.snr_limit / signal_to_noise).clamp(max=1)
        return {"weighted_loss": weighted.mean(), "loss": error.mean()}

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a random batch: latents, edges [n, 3, 8h, 8w] in 0..1 and tokens.

        The tokens are, at random, the caption, the caption with a_prompt, n_prompt or the empty prompt.
        """
        examples, n, device = self.examples, self.batch, self.examples.latents.device
        index = torch.randint(len(examples.latents), (n,), device=device)
        worded, which = (torch.randint(2, (n,), device=device) for _ in range(2))
        dropped = torch.rand(n, 1, device=device) < self.recipe.prompt_dropout
        tokens = torch.where(dropped, examples.no_prompt[which], examples.tokens[worded, index])
        hint_image = (examples.edges[index].float() / 255)[:, None].expand(-1, 3, -1, -1)
        return examples.latents[index].float(), hint_image, tokens


def start_small(model: ControlLDM) -> None:
    """Set ControlNet's and UNet's output convolutions to zero and the embeddings to small random values, in place."""
    zero = [*model.control.zero_convs.modules(), *model.control.middle_block_out.modules(), model.unet.out[2]]
    for module in zero:
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(torch.as_tensor(module.bias))
    for embedding in (model.text.embeddings.token_embedding, model.text.embeddings.position_embedding):
        nn.init.normal_(embedding.weight, std=0.02)


@torch.no_grad()
def encode_all(model: ControlLDM, pictures: Tensor, shrink: int) -> Tensor:
    """Return the latents, as the encoder's means, of pictures (uint8 [n, h, w, 3]) scaled down by the integer `shrink`.

    The result is float16 [n, 4, h / (8 shrink), w / (8 shrink)].
    """
    dtype = torch.bfloat16 if pictures.is_cuda else torch.float32
    vae = copy.deepcopy(model.vae).to(pictures.device, dtype)
    shrunk = (F.avg_pool2d(as_input(part), shrink).to(dtype) for part in pictures.split(64))
    return torch.cat([vae.encode(picture).half() for picture in shrunk])
