import math

import pytest

from scoring.leaderboard import leaderboard_score


@pytest.mark.parametrize(
    ("pd", "latency_ms", "points"),
    [
        (5.5608, 351.575, 5722.7056),
        (4.8898, 352.586, 5788.2041),
        (5.4663, 292.943, 6718.1295),
        (6.8294, 239.531, 7391.2857),
        (7.5472, 201.377, 7885.3875),
        (8.0016, 186.297, 8041.0687),
        (8.9520, 168.144, 6349.1866),
    ],
)
def test_published_reports_are_reproduced(pd: float, latency_ms: float, points: float) -> None:
    """Reports round PD to 4 decimals and ms to 3: the score is between the scores at the ends of this interval."""
    lowest = leaderboard_score(latency_ms + 0.5e-3, pd + 0.5e-4)
    highest = leaderboard_score(latency_ms - 0.5e-3, pd - 0.5e-4)
    assert highest - lowest < 0.25
    assert lowest <= points <= highest


def test_both_branches_meet_at_pd_8_and_reach_zero_at_pd_12() -> None:
    assert leaderboard_score(200, 8) == pytest.approx(leaderboard_score(200, 8 + 1e-12))
    assert leaderboard_score(200, 11.99) > 0
    assert leaderboard_score(200, 12) == leaderboard_score(200, 12.01) == leaderboard_score(200, 40) == 0


def test_latency_that_scores_zero() -> None:
    assert leaderboard_score(693.3322, 5) == 0
    assert leaderboard_score(700, 5) < 0


@pytest.mark.parametrize("latency_ms", [0.0, -1.0, math.nan, math.inf])
def test_impossible_latency_is_rejected(latency_ms: float) -> None:
    with pytest.raises(ValueError, match="latency_ms: got"):
        leaderboard_score(latency_ms, 5)


@pytest.mark.parametrize("pd", [-0.1, math.nan, math.inf])
def test_impossible_distance_is_rejected(pd: float) -> None:
    with pytest.raises(ValueError, match="pd: got"):
        leaderboard_score(200, pd)
