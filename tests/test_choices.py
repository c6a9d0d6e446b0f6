"""Choices between kernels, without a GPU."""

from collections.abc import Iterator

import pytest
import torch

from build.choices import has_choices
from ldm.norm import GroupNorm
from plugins.choices import CHOICES, Choice, chosen
from plugins.group_norm.layer import FusedGroupNorm
from plugins.split_k_tiles import parts_choice

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_choices() -> Iterator[None]:
    CHOICES.clear()
    yield
    CHOICES.clear()


def test_without_timing_the_rule_decides() -> None:
    choice = Choice("which?", (0, 1, 2), 1)
    assert chosen(choice) == 1
    CHOICES["which?"] = 2
    assert chosen(choice) == 2
    assert chosen(Choice("another?", (0, 1), 0)) == 0


def test_parts_fill_the_gpu_that_is_there() -> None:
    sizes = 2 * 8 * 12, 1280, 1280
    assert [parts_choice(*sizes, processors).answers for processors in (132, 108, 28)] == [(0, 8), (0, 7), (0,)]
    assert parts_choice(*sizes).otherwise == 8
    assert parts_choice(192, 100, 1280).answers == (0,), "the sizes are not whole tiles"


@pytest.mark.parametrize(("clusters", "answers", "otherwise"), [(True, (1,), 1), (False, (0, 1), 0)])
def test_without_clusters_our_norm_has_to_be_timed(
    clusters: bool, answers: tuple[int, ...], otherwise: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugins.group_norm.layer.has_clusters", lambda device: clusters)
    layer = GroupNorm(2, 8)
    layer.__class__ = FusedGroupNorm
    assert isinstance(layer, FusedGroupNorm)
    choice = layer.choice(torch.zeros(1, 8, 2, 3))
    assert (choice.answers, choice.otherwise) == (answers, otherwise)
    assert choice.question == "GroupNorm of maps [1, 8, 2, 3] in 2 groups by our kernel"


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), False), ((8, 6), True), ((12, 0), True)])
def test_only_other_gpus_than_hopper_choose(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_choices(torch.device("cuda")) == expected
    assert not has_choices(CPU)
