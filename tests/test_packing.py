"""Packed self-attention weights remain the module's own parameters when it moves or changes precision."""

import copy

import pytest
import torch
from torch import Tensor

from cldm.tricks.packed_qkv import PackedAttention, pack
from ldm.attention import Attention


def made() -> tuple[Attention, PackedAttention, Tensor]:
    """Return an attention, a packed copy of it, and tokens."""
    torch.manual_seed(0)
    plain = Attention(16, 16, 2).requires_grad_(False)
    packed = copy.deepcopy(plain)
    pack(packed)
    assert isinstance(packed, PackedAttention)
    return plain, packed, torch.randn(1, 5, 16)


def test_packed_equals_plain() -> None:
    plain, packed, x = made()
    torch.testing.assert_close(packed(x), plain(x))


@pytest.mark.parametrize(
    "move", [lambda m: m.double().float(), lambda m: m.to("cpu", torch.float32), lambda m: m.cpu()]
)
def test_weights_written_in_place_count_after_a_move(move: object) -> None:
    plain, packed, x = made()
    packed = move(packed)  # type: ignore[operator]
    with torch.no_grad():
        for module in (plain, packed):
            module.to_k.weight.mul_(3)
    torch.testing.assert_close(packed(x), plain(x))


def test_other_precisions_are_packed_again() -> None:
    plain, packed, x = made()
    torch.testing.assert_close(packed.double()(x.double()), plain.double()(x.double()))
    assert packed.packed is not None
    assert packed.packed.dtype == packed.to_q.weight.dtype == torch.float64
    assert packed.to_v.weight.data_ptr() == packed.packed[32:].data_ptr()


def test_given_keys_and_values_are_looked_at() -> None:
    plain, packed, x = made()
    context = plain.keys_values(torch.randn(1, 7, 16))
    expected = plain(x, context)
    torch.testing.assert_close(packed(x, context), expected)
    assert not torch.allclose(expected, plain(x))
