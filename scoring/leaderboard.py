"""The contest's leaderboard score."""

import math

LATENCY_OF_ZERO_MS = 693.3322
CHEAP_PD = 8.0
FAILING_PD = 12.0


def leaderboard_score(latency_ms: float, pd: float) -> float:
    """The points for a mean latency in ms and a mean perceptual distance, both over the contest's pictures.

    score = 10000 * (1 - latency / 693.3322) * g(pd), where g falls gently to 1.1 at pd = 8, steeply to 0 at pd = 12,
    and stays there. Up to pd = 12, more than 693.3322 ms make the score negative.

    Origin: the formula reproduces the published reports of the contest's server, which span 168-353 ms and PD 4.9-8.95;
    outside of that it is an extrapolation. Seven of them are in the tests and agree as far as their rounding can tell.
    The latency is meant to be that of the contest's NVIDIA A10: with another machine's the score compares runs of that
    machine and says nothing about the contest.

    Raises ValueError for a latency that is not positive and finite, or a distance that is negative or not finite.
    """
    if not (math.isfinite(latency_ms) and latency_ms > 0):
        raise ValueError(f"latency_ms: got {latency_ms}, expected a positive, finite number of milliseconds")
    if not (math.isfinite(pd) and pd >= 0):
        raise ValueError(f"pd: got {pd}, expected a finite perceptual distance of at least 0")
    return 10_000 * (1 - latency_ms / LATENCY_OF_ZERO_MS) * _quality(pd)


def _quality(pd: float) -> float:
    if pd <= CHEAP_PD:
        return 1.3 - 0.025 * pd
    return max(0.0, 0.275 * (FAILING_PD - pd))
