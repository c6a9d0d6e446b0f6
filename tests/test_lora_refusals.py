"""Files that are no LoRA or LoCon for this model are refused in one sentence that says why."""

import re

import pytest
import torch
from torch import Tensor

from ldm.weights import CheckpointError
from tests.test_lora import FLAT, KEY, QUERY, SMALL, flat, ours, theirs
from weights.lora import read_lora

DOWN, UP, ALPHA = (f"{FLAT}.{role}" for role in ("lora_down.weight", "lora_up.weight", "alpha"))
PAIR = {DOWN: torch.ones(3, 32), UP: torch.ones(32, 3)}
CROSS = flat(theirs)(KEY)


def cross(width: int) -> dict[str, Tensor]:
    return {f"{CROSS}.lora_down.weight": torch.ones(3, width), f"{CROSS}.lora_up.weight": torch.ones(32, 3)}


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        ({f"{FLAT}.hada_w1_a": torch.ones(32, 3), ALPHA: torch.tensor(1.0)}, "a LyCORIS LoHa"),
        ({f"{FLAT}.lokr_w1": torch.ones(4, 4), ALPHA: torch.tensor(1.0)}, "a LyCORIS LoKr"),
        (PAIR | {f"{FLAT}.dora_scale": torch.ones(32, 1)}, "a DoRA"),
        (PAIR | {"unet.x.to_q.lora_magnitude_vector.weight": torch.ones(32)}, "a DoRA"),
        (
            PAIR | {"lora_te1_text_model_x.lora_up.weight": torch.ones(1)},
            "a Stable Diffusion XL LoRA",
        ),
        (
            PAIR | {"lora_te2_text_model_x.lora_up.weight": torch.ones(1)},
            "a Stable Diffusion XL LoRA",
        ),
        (PAIR | {"text_encoder_2.text_model.final.lora_A.weight": torch.ones(1)}, "a Stable Diffusion XL LoRA"),
        (cross(2048), r"a Stable Diffusion XL LoRA \(cross attention of width 2048\)"),
        (cross(1024), r"a Stable Diffusion 2 LoRA \(cross attention of width 1024\)"),
    ],
)
def test_known_kinds_are_named(tensors: dict[str, Tensor], kind: str) -> None:
    expected = rf"^a\.pt is {kind}, not supported, expected LoRA or LoCon for .*1 of {len(tensors)} tensors, first \S+$"
    with pytest.raises(CheckpointError, match=expected):
        read_lora(tensors, "a.pt", SMALL)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (PAIR | {f"{FLAT}.diff": torch.ones(1), "b": torch.ones(1)}, f"2 of 4 tensors .*, first {FLAT}.diff, b;"),
        ({"x.lora_A.weight": torch.ones(1)}, "1 of 1 tensors .*, first x.lora_A.weight; give a LoRA"),
        ({}, "is no LoRA .* 0 of 0 tensors"),
        (
            PAIR | {f"{flat(ours)(QUERY)}.lora_up.weight": torch.ones(32, 3)},
            f"has both {UP} and .*: expected one up for",
        ),
        ({DOWN: PAIR[DOWN]}, f"has {DOWN} without the rest: expected both lora_down and lora_up"),
        ({ALPHA: torch.tensor(1.0)}, f"has {ALPHA} without the rest"),
        ({DOWN: torch.ones(0, 32), UP: torch.ones(32, 0)}, f"{DOWN} has rank 0, expected 1 to 16384"),
        (
            {DOWN: torch.ones(1, 1).expand(2**40, 32), UP: torch.ones(1, 1).expand(32, 2**40)},
            f"{DOWN} has rank {2**40}, expected 1 to 16384",
        ),
        (PAIR | {UP: torch.ones(1, 1).expand(2**40, 3)}, rf"{UP} has shape \[{2**40}, 3\], expected \[32, 3\]"),
        (PAIR | {DOWN: torch.full((3, 32), torch.nan)}, f"{DOWN} has NaN or infinite values"),
        (PAIR | {UP: torch.full((32, 3), torch.inf).half()}, f"{UP} has NaN or infinite values"),
        (PAIR | {ALPHA: torch.tensor(torch.nan)}, f"{ALPHA} has NaN or infinite values"),
        (PAIR | {DOWN: torch.ones(3, 32, dtype=torch.int8)}, f"{DOWN} has dtype torch.int8, expected floating point"),
        (PAIR | {DOWN: torch.ones(3, 32, dtype=torch.complex64)}, f"{DOWN} has dtype torch.complex64, expected"),
        (PAIR | {ALPHA: torch.tensor(1j)}, f"{ALPHA} has dtype torch.complex64, expected floating point"),
        (PAIR | {DOWN: torch.ones(3, 32).to_sparse()}, f"{DOWN} is a sparse_coo tensor of torch.float32, expected"),
        (PAIR | {UP: torch.ones(32, 3, device="meta")}, f"{UP} is a meta tensor of torch.float32, expected dense"),
        (
            PAIR | {UP: torch.quantize_per_tensor(torch.ones(32, 3), 0.1, 0, torch.qint8)},
            f"{UP} is a quantized tensor of torch.qint8, expected dense",
        ),
        (PAIR | {DOWN: torch.ones(3, 33)}, rf"{DOWN} has shape \[3, 33\], expected \[3, 32\] for {QUERY}"),
        (PAIR | {DOWN: torch.ones(3, 32, 3, 3)}, rf"{DOWN} has shape \[3, 32, 3, 3\], expected \[3, 32\] for"),
        (PAIR | {DOWN: torch.tensor(1.0)}, rf"{DOWN} has shape \[\], expected \[1, 32\] for"),
        (PAIR | {UP: torch.ones(32, 4)}, rf"{UP} has shape \[32, 4\], expected \[32, 3\] for"),
        (PAIR | {ALPHA: torch.ones(3)}, rf"{ALPHA} has shape \[3\], expected \[\] for"),
        (cross(768), rf"{CROSS}.lora_down.weight has shape \[3, 768\], expected \[3, 96\] for {KEY}"),
    ],
)
def test_what_does_not_fit_is_named(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^a\.pt:? (.* )?{message}") as caught:
        read_lora(tensors, "a.pt", SMALL)
    assert not re.search(r"[.;]$|\n", str(caught.value))
