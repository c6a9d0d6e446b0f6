"""The original algorithm in float32: the reference for everything else in this project.

Every DDIM step runs two separate passes. Each pass that uses ControlNet computes the hint again, and each pass computes
keys and values again. Do not optimize this file.
"""

import torch
from torch import Tensor

from cldm.canny import Picture, hint_image
from cldm.finite import check_finite, largest
from cldm.model import ControlLDM
from cldm.prompt_syntax import PLAIN, PromptSyntax
from cldm.request import Request
from cldm.stages import to_uint8
from ldm.chunks import encode_chunks
from ldm.diffusion import ddim_alphas, ddim_sigmas, ddim_timesteps
from ldm.tokenizer import Tokenizer
from runtime.precision import full_float32


def reference_pictures(
    model: ControlLDM, tokenizer: Tokenizer, request: Request, syntax: PromptSyntax = PLAIN
) -> list[Picture]:
    """Return the request's pictures, uint8 [height, width, 3] each, computed on the model's device.

    Raises ValueError if they are not finite.
    """
    x = reference_latent(model, tokenizer, request, syntax)
    pixels = reference_pixels(model, x)
    check_finite(largest(x, pixels), request)
    return list(to_uint8(pixels).cpu().numpy())


@torch.inference_mode()
def reference_latent(model: ControlLDM, tokenizer: Tokenizer, request: Request, syntax: PromptSyntax = PLAIN) -> Tensor:
    """Return the latent [num_samples, 4, height / 8, width / 8] after the last step."""
    device = model.alphas_cumprod.device
    n, (height, width) = request.num_samples, request.size
    hint = hint_image(torch.from_numpy(request.edge_map())[None]).to(device).repeat(n, 1, 1, 1)
    prompt, negative = request.prompts
    with full_float32():
        context = _context(model, tokenizer, [prompt] * n, syntax)
        negative_context = _context(model, tokenizer, [negative] * n, syntax)
        scales, negative_scales = request.control_scales(len(model.control.zero_convs) + 1)
        generator = torch.Generator(device).manual_seed(int(request.seed))
        x = torch.randn((n, 4, height // 8, width // 8), generator=generator, device=device)
        timesteps = ddim_timesteps(request.ddim_steps)
        now, after = ddim_alphas(model.alphas_cumprod.double().cpu().numpy(), timesteps)
        sigmas = ddim_sigmas(now, after, request.eta)
        for timestep, a, a_prev, sigma in list(zip(timesteps, now, after, sigmas, strict=True))[::-1]:
            t = torch.full((n,), timestep, device=device)
            e_c = _predict(model, x, t, context, hint, scales)
            e_u = _predict(model, x, t, negative_context, hint, negative_scales)
            eps = e_u + request.scale * (e_c - e_u)
            x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
            z = torch.randn(x.shape, generator=generator, device=device)
            x = a_prev**0.5 * x0 + (1 - a_prev - sigma**2) ** 0.5 * eps + sigma * z
    return x


@torch.inference_mode()
def reference_pixels(model: ControlLDM, x: Tensor) -> Tensor:
    """Decode the latent [n, 4, h, w] to float32 [n, 3, 8h, 8w], about -1 to 1."""
    with full_float32():
        return model.vae.decode(x)


def _context(model: ControlLDM, tokenizer: Tokenizer, prompts: list[str], syntax: PromptSyntax) -> Tensor:
    """Return the encoded prompts, [prompts, 77 * chunks, width]. The text encoder reads the chunks one by one."""
    device = model.alphas_cumprod.device
    if not syntax.weighted:
        return model.text(tokenizer(prompts).to(device))
    chunks = []
    for tokens, weights in zip(*encode_chunks(tokenizer, prompts, syntax.chunks), strict=True):
        context = model.text(tokens[None].to(device))
        weighted = context * weights[None, :, None].to(device)
        chunks.append(weighted * (context.mean() / weighted.mean()))
    return torch.cat(chunks).reshape(len(prompts), -1, context.shape[-1])


def _predict(model: ControlLDM, x: Tensor, t: Tensor, context: Tensor, hint: Tensor, scales: list[float]) -> Tensor:
    """Return eps of one pass. If all scales are 0, ControlNet does not run."""
    if not any(scales):
        return model.unet(x, t, context, [0.0] * len(scales))
    residuals = model.control(x, hint, t, context)
    return model.unet(x, t, context, [scale * c for scale, c in zip(scales, residuals, strict=True)])
