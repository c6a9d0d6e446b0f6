"""The six stages of a picture, and the only definition of their specs: inputs, outputs and fixed shapes.

    Text     tokens, token_weights (webui only) -> kv
    Hint     hint_image                         -> hint
    Control  x, hint, shift, kv, control_scales -> control_0 ... control_12
    Encoder  x, shift, kv                       -> skip_0 ... skip_11, middle
    Decoder  skips, middle, controls, shift, kv -> eps
    Vae      x                                  -> pixels

Prompt and negative prompt run as one batch of 2n: first n pictures with the prompt, then the same n without it. Each
picture has its own prompts, hint and control_scales [2n, 13]: a batch may be one request's samples or many requests.
Everything before the first layer that reads the text is computed for n only.
`kv` [2n, 77 * chunks, K] holds the keys and values of the text for all layers of ControlNet, then of the UNet; `shift`
[1, S] holds their time shifts in the same order. Each stage reads its own slice. x, eps and pixels are always float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cldm.columns import Columns, columns
from cldm.model import ControlLDM
from cldm.prompt_syntax import PLAIN, PromptSyntax
from cldm.tricks.hint_once import Hint
from cldm.tricks.text_once import Text, WeightedText, kv_widths, unpack
from cldm.tricks.time_table import shift_widths
from ldm.repeat import repeated
from ldm.unet import Encoder as UNetHalf
from ldm.zero_convolutions import Out
from runtime.spec import EngineSpec, TensorSpec

STAGES = ("text", "hint", "control", "encoder", "decoder", "vae")
# Height and width in pixels, samples, and the syntax of the prompts if it is not plain.
Size = tuple[int, int, int] | tuple[int, int, int, PromptSyntax]


@dataclass(frozen=True)
class Stage:
    spec: EngineSpec
    module: nn.Module


class Control(nn.Module):
    takes_out = True  # as runtime/compiled_code.py explains

    def __init__(self, model: ControlLDM, shifts: Columns, texts: Columns) -> None:
        super().__init__()
        self.control, self.shifts, self.texts = model.control, shifts, texts

    def forward(
        self, x: Tensor, hint: Tensor, shift: Tensor, kv: Tensor, control_scales: Tensor, out: Out = None
    ) -> tuple[Tensor, ...]:
        shifts, texts = self.shifts.split(shift), unpack(kv, self.texts)
        return tuple(self.control.scaled_residuals(x.to(hint.dtype), hint, shifts, texts, control_scales, out))


class Encoder(nn.Module):
    def __init__(self, model: ControlLDM, shifts: Columns, texts: Columns) -> None:
        super().__init__()
        self.unet, self.shifts, self.texts = model.unet, shifts, texts

    def forward(self, x: Tensor, shift: Tensor, kv: Tensor) -> tuple[Tensor, ...]:
        skips, middle = self.unet.encode(x.to(kv.dtype), self.shifts.split(shift), unpack(kv, self.texts))
        return (*(repeated(skip, len(kv)) for skip in skips), middle)


class Decoder(nn.Module):
    def __init__(self, model: ControlLDM, shifts: Columns, texts: Columns) -> None:
        super().__init__()
        self.unet, self.shifts, self.texts = model.unet, shifts, texts

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        *features, shift, kv = inputs
        skips, middle, control = _split_features(features)
        eps = self.unet.decode(skips, middle, control, self.shifts.split(shift), unpack(kv, self.texts))
        return (eps.float(),)


class Vae(nn.Module):
    def __init__(self, model: ControlLDM) -> None:
        super().__init__()
        self.vae = model.vae

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.vae.decode(x.to(next(self.vae.parameters()).dtype)).float(),)


def to_uint8(picture: Tensor) -> Tensor:
    """Convert [n, 3, h, w] in about -1..1 to uint8 [n, h, w, 3]. Truncates, as the original does."""
    return (picture.permute(0, 2, 3, 1) * 127.5 + 127.5).clamp(0, 255).to(torch.uint8)


def make_stages(
    model: ControlLDM, height: int, width: int, samples: int, syntax: PromptSyntax = PLAIN
) -> dict[str, Stage]:
    """Return the stages for `samples` pictures of height x width pixels, in the precision of the model's weights.

    model: after `make_fast`.
    """
    dtype = next(model.unet.out.parameters()).dtype
    shifts, texts = columns(model, shift_widths), columns(model, kv_widths)
    control, encoder, decoder = zip(shifts, texts, strict=True)
    channels, latent = model.architecture.unet.in_channels, (height // 8, width // 8)

    positions = model.architecture.text.positions
    tokens = TensorSpec("tokens", (2 * samples * syntax.chunks, positions), torch.int32)
    weights = TensorSpec("token_weights", tokens.shape, torch.float32)
    kv = TensorSpec("kv", (2 * samples, syntax.chunks * positions, texts[-1].end), dtype)
    shift = TensorSpec("shift", (1, shifts[-1].end), dtype)
    hint_image = TensorSpec("hint_image", (samples, 3, height, width), torch.float32)
    hint = TensorSpec("hint", (samples, model.architecture.unet.model_channels, *latent), dtype, channels_last=True)
    x = TensorSpec("x", (samples, channels, *latent), torch.float32)
    eps = TensorSpec("eps", (2 * samples, channels, *latent), torch.float32)
    pixels = TensorSpec("pixels", (samples, 3, height, width), torch.float32)
    features = _feature_shapes(model.unet, 2 * samples, latent)
    scales = TensorSpec("control_scales", (2 * samples, len(features)), dtype)
    controls, skips = (
        tuple(TensorSpec(f"{name}_{i}", shape, dtype, channels_last=True) for i, shape in enumerate(shapes))
        for name, shapes in (("control", features), ("skip", features[:-1]))
    )
    middle = TensorSpec("middle", features[-1], dtype, channels_last=True)

    text = (
        Stage(EngineSpec("text", (tokens, weights), (kv,)), WeightedText(model, 2 * samples))
        if syntax.weighted
        else Stage(EngineSpec("text", (tokens,), (kv,)), Text(model))
    )
    stages = [
        text,
        Stage(EngineSpec("hint", (hint_image,), (hint,)), Hint(model)),
        Stage(EngineSpec("control", (x, hint, shift, kv, scales), controls), Control(model, *control)),
        Stage(EngineSpec("encoder", (x, shift, kv), (*skips, middle)), Encoder(model, *encoder)),
        Stage(EngineSpec("decoder", (*skips, middle, *controls, shift, kv), (eps,)), Decoder(model, *decoder)),
        Stage(EngineSpec("vae", (x,), (pixels,)), Vae(model)),
    ]
    return {stage.spec.name: stage for stage in stages}


def _feature_shapes(half: UNetHalf, batch: int, latent: tuple[int, int]) -> list[tuple[int, ...]]:
    """Return the shapes of all skips and, last, of the middle. Each level has res_blocks + 1 skips."""
    per_level = half.config.res_blocks + 1
    scales = [2 ** (i // per_level) for i in range(len(half.skip_channels))]
    shapes = [
        (batch, channels, latent[0] // scale, latent[1] // scale)
        for channels, scale in zip(half.skip_channels, scales, strict=True)
    ]
    return [*shapes, (batch, half.middle_channels, *shapes[-1][2:])]


def _split_features(features: list[Tensor]) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    half = len(features) // 2  # skips and middle, then as many residuals
    return features[: half - 1], features[half - 1], features[half:]
