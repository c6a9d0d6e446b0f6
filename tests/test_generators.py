"""The host's random number generators are neither used nor advanced."""

import pickle
import random
from typing import Any

import numpy as np
import torch

from canny2image_TRT import hackathon
from cldm.request import drawn
from tests.arguments import process


def states() -> tuple[Any, ...]:
    return random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().numpy().tobytes()


def test_seeds_are_drawn_independently_of_the_host() -> None:
    found = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)
        found.append([drawn(-1) for _ in range(20)])
    assert found[0] != found[1]
    assert all(0 <= seed <= 65535 for seed in found[0])


def test_only_minus_one_is_replaced() -> None:
    others: list[Any] = [0, -2, np.uint8(255), -1.0, np.timedelta64(-1), "-1", None]
    for other in others:
        assert drawn(other) is other
    minus_one: Any = np.int8(-1)
    assert type(drawn(minus_one)) is int


def test_nothing_advances_the_generators() -> None:
    before = states()
    runtime = hackathon("random:0", plan="19", device="cpu")
    runtime.initialize()
    process(runtime, seed=-1, eta=1.0)
    assert states() == before


def test_the_host_does_not_change_a_picture(runtime: hackathon) -> None:
    first = process(runtime, eta=1.0)[0]
    torch.manual_seed(8)
    assert np.array_equal(process(runtime, eta=1.0)[0], first)
