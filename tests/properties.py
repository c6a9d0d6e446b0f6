"""Settings and values for property tests: every run tries the same examples, and stores no failures."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis", reason="property tests: ./preprocess.sh dev installs it")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.extra import numpy as hnp

__all__ = ["ANYTHING", "PROMPTS", "SETTINGS", "given", "pictures", "settings", "st"]

set_hypothesis_home_dir(Path(__file__).parent.parent / ".cache" / "hypothesis")  # tables of Unicode and of constants
SETTINGS = settings(
    derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
UNUSUAL: list[Any] = [
    None, True, np.bool_(False), "1", b"1", 1j, 10**400, -(10**5000), Fraction(10**400, 3), Decimal("1e400"),
    Decimal("sNaN"), np.float16("inf"), np.longdouble("1e4000"), np.array(1), np.array([1.0, 2.0]), torch.tensor(1),
    np.timedelta64(1, "s"), np.datetime64(1, "D"), np.void(b"1"), [1], {}, object(), Ellipsis, "\ud800", "\n" * 20_000,
    np.ma.masked_array([1]), np.zeros((9, 9), object), np.broadcast_to(np.uint8(3), (2**20, 2**20)),
    np.zeros((1, 10_000), np.uint8), np.zeros((1,) * 20, np.uint8), torch.zeros(8, 8, dtype=torch.uint8),
]  # fmt: skip
SCALARS = hnp.scalar_dtypes().filter(lambda dtype: dtype.kind in "biufc").flatmap(lambda dtype: hnp.from_dtype(dtype))
NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(-3, 300), st.fractions(), st.decimals(), SCALARS)
ANYTHING = st.one_of(st.sampled_from(UNUSUAL), NUMBERS, st.text(max_size=5), hnp.arrays(np.uint8, st.just((2, 3))))
PARTS = [
    "a bird", "(red:1.2)", "((", "))", "[", "]", ":", "BREAK", "AND", "\\", "<lora:a:1>", "[a|b]", "(x:1001)", ",", " ",
    "\n", "\0", "\u202e", "\u200d", "\ufeff", "鳥", "e\u0301", "👩\u200d👧", "<|endoftext|>", "1e400", "nan",
]  # fmt: skip
PROMPTS = st.one_of(st.lists(st.sampled_from(PARTS), max_size=30).map("".join), st.text(max_size=300))


def pictures(most: int) -> st.SearchStrategy[Any]:
    """Return valid pictures with sides of 1 to `most` pixels, in several memory layouts."""
    sides, layouts = st.integers(1, most), st.sampled_from(["C", "F", "reversed", "read-only", "transposed"])
    shapes = st.one_of(st.tuples(sides, sides), st.tuples(sides, sides, st.sampled_from([1, 3, 4])))
    return st.builds(_laid_out, shapes, layouts, st.integers(0, 2**32 - 1))


def _laid_out(shape: tuple[int, ...], layout: str, seed: int) -> Any:
    """Return coarse blocks of random colours, which have edges at every threshold."""
    blocks = np.random.default_rng(seed).integers(
        0, 256, (*(-(-side // 8) for side in shape[:2]), *shape[2:]), np.uint8
    )
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)[: shape[0], : shape[1]]
    if layout == "F":
        return np.asfortranarray(picture)
    if layout == "reversed":
        return picture[::-1, ::-1]
    if layout == "transposed":
        return picture.swapaxes(0, 1)
    picture.flags.writeable = layout != "read-only"
    return picture
