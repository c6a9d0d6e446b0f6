"""The inputs of a batch: one row per picture of the requests, all rows with the prompt before all rows without it."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cldm.canny import Picture
from cldm.noise import draw_noise
from cldm.prompt_syntax import PromptSyntax
from cldm.request import Request
from cldm.text_inputs import text_inputs
from ldm.tokenizer import Tokenizer
from plans.plan import Evaluation


def pictures_of(requests: Sequence[Request]) -> list[Request]:
    """Return the request of each picture: each request num_samples times."""
    return [request for request in requests for _ in range(request.num_samples)]


def text_rows(tokenizer: Tokenizer, requests: Sequence[Request], syntax: PromptSyntax) -> dict[str, Tensor]:
    """Return the inputs of the stage Text for n pictures, [2n * chunks, 77] each; see `text_inputs`."""
    each = [text_inputs(tokenizer, request.prompts, syntax) for request in requests]
    rows = {
        name: [_repeated(one[name], request.num_samples) for one, request in zip(each, requests, strict=True)]
        for name in each[0]
    }
    return {name: torch.cat(parts, dim=1).flatten(0, 2) for name, parts in rows.items()}


def edge_rows(requests: Sequence[Request], maps: Iterable[Picture]) -> NDArray[np.uint8]:
    """Return the edges of n pictures, [n, h, w]. maps: those of each request."""
    pairs = zip(requests, maps, strict=True)
    return np.concatenate([np.repeat(edges[None], request.num_samples, axis=0) for request, edges in pairs])


def control_rows(requests: Sequence[Request], residuals: int) -> list[list[float]]:
    """Return the factors of ControlNet's residuals for n pictures, [2n, residuals]."""
    pairs = [request.control_scales(residuals) for request in pictures_of(requests)]
    return [row for rows in zip(*pairs, strict=True) for row in rows]


def update_rows(steps: Sequence[Sequence[Evaluation]]) -> NDArray[np.float64]:
    """Return the factors of x, noise and eps, [evaluations, factors, n]. steps: the evaluations of each picture."""
    return np.array([[[step.a, 1.0, *step.weights] for step in one] for one in steps]).transpose(1, 2, 0)


def draw_noises(requests: Sequence[Request], steps: Sequence[tuple[Evaluation, ...]], x: Tensor, noise: Tensor) -> None:
    """Fill x [n, ...] and noise [evaluations, n, ...], each request as `draw_noise` does. steps: of each request."""
    sizes = [request.num_samples for request in requests]
    parts = zip(requests, steps, x.split(sizes), noise.split(sizes, dim=1), strict=True)
    for request, evaluations, start, later in parts:
        draw_noise(request.seed, evaluations, start, later)


def _repeated(rows: Tensor, samples: int) -> Tensor:
    """Convert [2 * chunks, 77] to [2, samples, chunks, 77]."""
    return rows.reshape(2, 1, len(rows) // 2, -1).expand(-1, samples, -1, -1)
