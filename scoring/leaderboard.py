"""Computes the contest's leaderboard score."""

import math

LATENCY_OF_ZERO_MS = 693.3322
CHEAP_PD = 8.0
FAILING_PD = 12.0


def leaderboard_score(latency_ms: float, pd: float) -> float:
    """Return the score for a mean latency in ms and a mean perceptual distance, both over the contest's pictures.

    score = 10000 * (1 - latency / 693.3322) * g(pd), where g falls from 1.3 at pd = 0 to 1.1 at pd = 8, then faster to
    0 at pd = 12, and is 0 above. Below pd = 12, latencies above 693.3322 ms give a negative score.

    Source: the formula reproduces the published reports of the contest's server, which cover 168-353 ms and PD
    4.9-8.95; outside these ranges it extrapolates. The tests contain seven reports; the formula agrees with them within
    their rounding. The contest measured latency on an NVIDIA A10. Scores with another machine's latencies can be
    compared with each other, but not with the contest's.

    Raise ValueError if the latency is not positive and finite, or if the distance is negative or not finite.
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
