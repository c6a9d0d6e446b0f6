"""On CUDA devices: runtimes side by side draw the same pictures, whatever others record, free and overwrite."""

import gc

import numpy as np
import pytest
import torch

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from tests.arguments import Picture, process

pytestmark = pytest.mark.gpu
GIBIBYTE = 2**30


def started(index: int) -> hackathon:
    made = hackathon(str(SMALL_MODEL), device=f"cuda:{index}", backend="eager")
    made.initialize()
    return made


def pictures(runtime: hackathon) -> list[Picture]:
    return [process(runtime, seed=1)[0], process(runtime, num_samples=2, eta=1.0)[1]]


def overwrite_free_memory(index: int) -> None:
    """Fill up to 16 GiB of memory that nobody holds with NaN, and give it back."""
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(index)
    count = min(16, free // GIBIBYTE - 1)
    blocks = [torch.full((GIBIBYTE // 4,), torch.nan, device=f"cuda:{index}") for _ in range(count)]
    torch.cuda.synchronize(index)
    del blocks
    torch.cuda.empty_cache()


SECOND = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.mark.parametrize("other", [0, pytest.param(1, marks=SECOND)])
def test_two_objects(other: int) -> None:
    one, two = started(0), started(other)
    expected = pictures(one)
    assert all(np.array_equal(a, b) for a, b in zip(pictures(two), expected, strict=True))
    for index in (0, other, 0):
        third = started(index)
        process(third, image_resolution=128)
        assert all(np.array_equal(a, b) for a, b in zip(pictures(two), expected, strict=True)), "after a recording"
        del third
        overwrite_free_memory(0)
        overwrite_free_memory(other)
        for runtime in (two, one):
            assert all(np.array_equal(a, b) for a, b in zip(pictures(runtime), expected, strict=True)), "after NaN"


@pytest.mark.parametrize("other", [0, pytest.param(1, marks=SECOND)])
def test_the_caller_s_device_does_not_matter(other: int) -> None:
    runtime = started(0)
    expected = pictures(runtime)
    with torch.cuda.device(other):
        assert all(np.array_equal(a, b) for a, b in zip(pictures(runtime), expected, strict=True))
        runtime.load_weights("random:0")
        runtime.load_weights(str(SMALL_MODEL))
        process(runtime, image_resolution=128)
        assert torch.cuda.current_device() == other
    overwrite_free_memory(0)
    overwrite_free_memory(other)
    assert all(np.array_equal(a, b) for a, b in zip(pictures(runtime), expected, strict=True))
