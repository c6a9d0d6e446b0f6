"""Choices between kernels, without a GPU."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from build.choices import Asking, choose, has_choices
from build.errors import BuildError
from cldm.engine_files import Target
from ldm.norm import GroupNorm
from plugins.choices import CHOICES, Choice, chosen
from plugins.group_norm.layer import FusedGroupNorm
from plugins.split_k_tiles import parts_choice

CPU = torch.device("cpu")
HALF = Target("small", 64, 64, 1, "fp16")


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
    assert has_choices(HALF, torch.device("cuda")) == expected
    assert not has_choices(replace(HALF, precision="fp32"), torch.device("cuda"))
    assert not has_choices(HALF, CPU)


def asking(question: str, answers: tuple[int, ...]) -> Asking:
    return Asking(Choice(question, answers, 0), torch.nn.Identity(), (), torch.zeros(1))


@pytest.mark.parametrize("refusal", [RuntimeError("out of resources\nand much more"), ValueError("out of resources")])
def test_the_fastest_of_those_that_run(
    refusal: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def time_ms(one: Asking, answer: int) -> float:
        if answer == 9:
            raise refusal
        return 5.0 - answer

    layers = [asking("which?", (0, 4, 9)), asking("what?", (9,)), asking("which?", (0, 3, 9))]
    monkeypatch.setattr(Asking, "_time_ms", time_ms)
    monkeypatch.setattr("build.choices._asking", lambda target, name: layers if name == "hint" else [])
    assert choose(HALF) == {"which?": 3}
    assert "which?: 9 does not run here: out of resources" in caplog.messages


def test_stages_that_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(target: Target, name: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore")

    monkeypatch.setattr("build.choices._asking", out_of_memory)
    with pytest.raises(BuildError, match=r"^kernels cannot be chosen \(OutOfMemoryError: CUDA out of memory.\)$"):
        choose(HALF)
