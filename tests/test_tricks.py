"""Tricks that change modules in place keep the results of the plain model."""

import copy

import pytest
import torch
from torch import Tensor

from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.tricks.guidance_batch import batch_guidance
from cldm.tricks.time_table import move_biases, time_table
from ldm.blocks import ResBlock
from ldm.config import load_architecture
from ldm.repeat import repeated
from ldm.weights import randomize


@pytest.fixture(scope="module")
def plain() -> ControlLDM:
    model = ControlLDM(load_architecture("small"))
    randomize(model, 0)
    return model.eval().requires_grad_(False)


def inputs(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the latents of `count` pictures, their timestep, and twice as many texts."""
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(count, 4, 8, 8, generator=generator), torch.randn(2 * count, 77, 96, generator=generator)
    return x, torch.full((1,), 501), context


@pytest.mark.parametrize("count", [1, 3])
def test_one_batch_equals_both_passes(plain: ControlLDM, count: int) -> None:
    plain, guided = (copy.deepcopy(plain).double() for _ in range(2))  # other batch sizes round differently
    batch_guidance(guided)
    x, t, context = inputs(count)
    x, context = x.double(), context.double()
    expected = torch.cat(
        [plain.unet.encode(x, plain.unet.time_shifts(t), plain.unet.keys_values(part))[1] for part in context.chunk(2)]
    )
    skips, middle = guided.unet.encode(x, guided.unet.time_shifts(t), guided.unet.keys_values(context))
    torch.testing.assert_close(middle, expected)
    assert [len(skip) for skip in skips[:2]] == [count, 2 * count], "the batch does not double at the first text"


def test_repeated() -> None:
    x = torch.arange(3)
    assert repeated(x, 3) is x
    assert repeated(x, 6).tolist() == [0, 1, 2, 0, 1, 2]


def test_moving_the_bias_into_the_shift_keeps_the_result(plain: ControlLDM) -> None:
    moved = copy.deepcopy(plain)
    move_biases(moved)
    block, other = (next(m for m in model.unet.modules() if isinstance(m, ResBlock)) for model in (plain, moved))
    generator = torch.Generator().manual_seed(0)
    emb = torch.randn(1, plain.unet.emb_width, generator=generator)
    x = torch.randn(2, plain.architecture.unet.model_channels, 8, 8, generator=generator)
    torch.testing.assert_close(other(x, other.shift(emb)), block(x, block.shift(emb)))
    assert not torch.allclose(other.shift(emb), block.shift(emb)), "the shift does not include the bias"
    assert not torch.equal(time_table(moved, [1]), time_table(plain, [1]))


def test_all_tricks_together_keep_keys_and_results(plain: ControlLDM) -> None:
    fast = make_fast(copy.deepcopy(plain), torch.float32)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    x, t, context = inputs(1)
    one, both = context[:1], context[:1]
    control = [0.0] * (len(plain.unet.skip_channels) + 1)
    torch.testing.assert_close(fast.unet(x, t, both, control), plain.unet(x, t, one, control))


def test_second_make_fast_changes_nothing(plain: ControlLDM) -> None:
    fast = make_fast(copy.deepcopy(plain), torch.float32)
    kinds = [type(module) for module in fast.modules()]
    x, t, context = inputs(1)
    control = [0.0] * (len(plain.unet.skip_channels) + 1)
    before = fast.unet(x, t, context[:1], control)
    make_fast(fast, torch.float32)
    assert [type(module) for module in fast.modules()] == kinds
    assert torch.equal(fast.unet(x, t, context[:1], control), before)
