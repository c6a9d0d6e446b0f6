"""Any arguments of process() give pictures or one sentence, and the next good request is not affected."""

from typing import Any

import numpy as np
import pytest

from canny2image_TRT import hackathon
from tests.arguments import GOOD, Picture, process
from tests.properties import ANYTHING, PROMPTS, SETTINGS, given, pictures, settings, st
from tests.sentences import assert_one_sentence

# Values that are quick to generate with the small model on the CPU, in three shapes: more would evict each other.
USUAL: dict[str, st.SearchStrategy[Any]] = {
    "input_image": pictures(90).filter(lambda one: max(one.shape[:2]) <= 2 * min(one.shape[:2])),
    "edges": st.none(),
    "num_samples": st.sampled_from([1, np.uint8(1)]),
    "image_resolution": st.sampled_from([64, np.uint8(64), 70]),
    "ddim_steps": st.sampled_from([20, np.int8(20)]),
    "guess_mode": st.sampled_from([True, False, np.bool_(True)]),
    "strength": st.floats(-2, 2, width=16),
    "scale": st.floats(-20, 20),
    "seed": st.integers(-1, 2**32 - 1),
    "eta": st.floats(0, 1),
    "low_threshold": st.floats(-300, 300),
    "high_threshold": st.floats(-300, 300),
    **dict.fromkeys(("prompt", "a_prompt", "n_prompt"), PROMPTS),
}
COSTLY = ("num_samples", "image_resolution", "ddim_steps", "input_image", "edges")  # some valid values take minutes
UNUSUAL = st.dictionaries(st.sampled_from([name for name in USUAL if name not in COSTLY]), ANYTHING, max_size=2)


@pytest.fixture(scope="module", params=["plain", "webui"])
def runtime(request: pytest.FixtureRequest) -> hackathon:
    made = hackathon("random:0", plan="19", device="cpu", prompt_syntax=request.param)
    made.initialize()
    return made


@pytest.fixture(scope="module")
def good(runtime: hackathon) -> Picture:
    return process(runtime)[0]


@given(st.fixed_dictionaries(USUAL), UNUSUAL)
@settings(SETTINGS, max_examples=15)
def test_pictures_or_one_sentence(
    runtime: hackathon, good: Picture, usual: dict[str, Any], unusual: dict[str, Any]
) -> None:
    try:
        made = runtime.process(**GOOD | usual | unusual)
    except (TypeError, ValueError) as error:
        assert_one_sentence(error, "|".join([*unusual, "prompt", "the latent", "the picture"]))
    else:
        assert len(made) == 1
        assert all(one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3 for one in made)
        assert {side % 64 for one in made for side in one.shape[:2]} == {0}
    assert np.array_equal(process(runtime)[0], good)
