"""LoRA files in every layout give the change of the formula, and anything else is refused in one sentence."""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.config import load_architecture
from ldm.diffusers_layout import diffusers_name
from weights.lora import Patch, merge, read_lora
from weights.lora_names import TEXT, UNET, layer_names, weight_shapes

SMALL = load_architecture("small")
SHAPES = weight_shapes(SMALL)
RANK, ALPHA = 3, 2.0
Tensors = dict[str, Tensor]
Names = Callable[[str], str]
KOHYA, PEFT = ("lora_down", "lora_up"), ("lora_A", "lora_B")
QUERY = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
KEY = QUERY.replace("attn1.to_q", "attn2.to_k")
CONVOLUTION = f"{UNET}input_blocks.1.0.in_layers.2.weight"
FLAT = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def ours(weight: str) -> str:
    return weight.removeprefix(UNET).removeprefix(TEXT).removesuffix(".weight")


def theirs(weight: str) -> str:
    if weight.startswith(TEXT):
        return f"text_model.{ours(weight)}"
    return diffusers_name(f"{ours(weight)}.weight", "unet", SMALL).removesuffix(".weight")


def flat(tree: Names) -> Names:
    return lambda weight: ("lora_te_" if weight.startswith(TEXT) else "lora_unet_") + tree(weight).replace(".", "_")


def part(weight: str) -> str:
    return "text_encoder." if weight.startswith(TEXT) else "unet."


def recent(weight: str) -> str:
    return f"{part(weight)}{theirs(weight)}.{'lora_linear_layer' if weight.startswith(TEXT) else 'lora'}"


def old(weight: str) -> str:
    """Return the name from when attention processors held the factors; other layers have today's."""
    name = re.sub(r"(attn[12])\.(to_[qkv]|to_out)(\.0)?\.lora$", r"\1.processor.\2_lora", recent(weight))
    return re.sub(r"self_attn\.(q|k|v|out)_proj\.lora_linear_layer$", r"self_attn.to_\1_lora", name)


LAYOUTS: dict[str, tuple[Names, tuple[str, str]]] = {
    "kohya": (flat(theirs), KOHYA),
    "kohya, LDM": (flat(ours), KOHYA),
    "PEFT": (lambda weight: part(weight) + theirs(weight), PEFT),
    "PEFT, adapter": (lambda weight: part(weight) + theirs(weight), ("lora_A.default", "lora_B.default")),
    "PEFT, wrapped": (lambda weight: "base_model.model." + theirs(weight), PEFT),
    "PEFT, wrapped part": (lambda weight: f"base_model.model.{part(weight)}{theirs(weight)}", PEFT),
    "PEFT, part wrapped": (lambda weight: f"{part(weight)}base_model.model.{theirs(weight)}", PEFT),
    "no prefix": (theirs, PEFT),
    "no level text_model": (lambda weight: part(weight) + theirs(weight).removeprefix("text_model."), PEFT),
    "diffusers": (recent, ("down", "up")),
    "processors": (old, ("down", "up")),
}


def factors(shape: torch.Size, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    kernel = shape[2:]
    up = torch.randn(shape[0], RANK, *[1 for _ in kernel], generator=generator)
    return torch.randn(RANK, shape[1], *kernel, generator=generator), up


def product(down: Tensor, up: Tensor, shape: torch.Size) -> Tensor:
    return torch.einsum("or,r...->o...", up.reshape(len(up), RANK), down).reshape(shape)


def lora(names: Names, roles: tuple[str, str], alpha: bool) -> Tensors:
    """Return a file that changes every weight."""
    tensors = {}
    for seed, (weight, shape) in enumerate(SHAPES.items()):
        layer = names(weight)
        for role, factor in zip(roles, factors(shape, seed), strict=True):
            tensors[f"{layer}.{role}.weight"] = factor
        if alpha:
            tensors[f"{layer}.alpha"] = torch.tensor(ALPHA)
    return tensors


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_weight_in_every_layout(layout: str, alpha: bool) -> None:
    patches = read_lora(lora(*LAYOUTS[layout], alpha), "a.safetensors", SMALL)
    assert patches.keys() == SHAPES.keys()
    for seed, (weight, shape) in enumerate(SHAPES.items()):
        delta = patches[weight].delta(shape, "cpu")
        expected = (ALPHA / RANK if alpha else 1.0) * product(*factors(shape, seed), shape)
        torch.testing.assert_close(delta, expected)
        assert delta.shape == shape


@pytest.mark.parametrize("architecture", ["small", "sd15"])
def test_no_name_means_two_weights(architecture: str) -> None:
    config = load_architecture(architecture)
    shapes = weight_shapes(config)
    apart = [layer_names([weight], config) for weight in shapes]
    assert sum(map(len, apart)) == len(layer_names(shapes, config))


def test_all_weights_of_the_model_that_are_not_norms_or_embeddings_can_change() -> None:
    assert {len(shape) for shape in SHAPES.values()} == {2, 4}
    counts = [sum(weight.startswith(prefix) for weight in SHAPES) for prefix in (UNET, TEXT)]
    assert counts == [282, 6 * SMALL.text.layers]


@pytest.mark.parametrize("weight", [QUERY, QUERY.replace("transformer_blocks.0.attn1.to_q", "proj_in")])
@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_factors_may_be_matrices_or_1x1_convolutions(weight: str, kernel: tuple[int, ...]) -> None:
    down, up = torch.randn(RANK, 32, *kernel), torch.randn(32, RANK, *kernel)
    layer = flat(theirs)(weight)
    file = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.tensor([ALPHA])}
    delta = read_lora(file, "a", SMALL)[weight].delta(SHAPES[weight], "cpu")
    torch.testing.assert_close(delta, ALPHA / RANK * product(down.reshape(RANK, -1), up, SHAPES[weight]))


def test_mid_is_a_convolution_between_two_1x1_convolutions() -> None:
    shape, layer = SHAPES[CONVOLUTION], flat(theirs)(CONVOLUTION)
    down, up = torch.randn(RANK, shape[1], 1, 1), torch.randn(shape[0], RANK, 1, 1)
    mid, x = torch.randn(RANK, RANK, 3, 3), torch.randn(1, shape[1], 5, 6)
    file = {f"{layer}.lora_{role}.weight": part for role, part in (("down", down), ("up", up), ("mid", mid))}
    delta = read_lora(file, "a", SMALL)[CONVOLUTION].delta(shape, "cpu")
    conv2d = torch.nn.functional.conv2d
    expected = conv2d(conv2d(conv2d(x, down), mid, padding=1), up)
    torch.testing.assert_close(conv2d(x, delta, padding=1), expected, atol=1e-3, rtol=1e-4)


def test_merge_adds_in_the_given_order_in_float32() -> None:
    weight = torch.randn(32, 32).half()
    before = weight.clone()
    patches = [Patch(torch.randn(2, 32).half(), torch.randn(32, 2).half(), None, 0.5) for _ in range(2)]
    merged = merge(weight, [(patches[0], 0.7), (patches[1], -1)])
    first, second = (0.5 * (patch.up.float() @ patch.down.float()) for patch in patches)
    assert torch.equal(merged, weight.float() + 0.7 * first + -1.0 * second)
    assert torch.equal(weight, before)
    alone = merge(merged, [])
    assert torch.equal(alone, merged)
    assert alone.data_ptr() != merged.data_ptr()


@pytest.mark.parametrize(
    ("strength", "error"),
    [
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (1e39, ValueError),
        (np.float16("inf"), ValueError),
        (Decimal("sNaN"), ValueError),
        ("1", TypeError),
        (True, TypeError),
        (np.timedelta64(1), TypeError),
    ],
)
def test_merge_refuses_a_strength_that_is_no_finite_number(strength: Any, error: type[Exception]) -> None:
    with (
        np.errstate(all="raise"),
        pytest.raises(error, match=r"^strength of a LoRA: got .*, expected a (finite )?number$"),
    ):
        merge(torch.zeros(2, 2), [(Patch(torch.ones(1, 2), torch.ones(2, 1), None, 1.0), strength)])


@pytest.mark.parametrize("strength", [np.float16(0.5), Fraction(1, 2), Decimal("0.5"), np.float64(0.5)])
def test_a_strength_of_any_number_type(strength: Any) -> None:
    patch = Patch(torch.ones(1, 2), torch.ones(2, 1), None, 1.0)
    with np.errstate(all="raise"):
        assert torch.equal(merge(torch.zeros(2, 2), [(patch, strength)]), torch.full((2, 2), 0.5))
