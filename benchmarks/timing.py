"""Measures candidates: latency, peak memory and the difference from a base picture."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from cldm.canny import Picture

WARMUPS = 3  # untimed calls, which compile, choose convolution algorithms, capture and fill caches


@dataclass(frozen=True)
class Row:
    """The result of one candidate. Differences are from the picture of the first candidate with the same plan."""

    name: str
    plan: str
    precision: str
    median_ms: float
    min_ms: float
    max_ms: float
    max_difference: int  # grey levels
    psnr_db: float | None  # None if identical
    peak_gib: float | None  # GPU memory that PyTorch reserved, including weights and graph; None on the CPU


@dataclass(frozen=True)
class Candidate:
    """A way to generate the picture. `make` returns once the picture is in host memory."""

    name: str
    plan: str
    precision: str
    make: Callable[[], Picture]


def measure(candidates: Iterable[Candidate], count: int, device: torch.device, runs: int) -> list[Row]:
    """Return a row for each of `count` candidates. The first candidate of a plan is the base for that plan."""
    base: dict[str, Picture] = {}
    rows = []
    for candidate in tqdm(candidates, total=count, desc="measuring"):
        picture, times, peak = time_picture(candidate.make, device, WARMUPS, runs)
        span = statistics.median(times), min(times), max(times)
        difference = apart(picture, base.setdefault(candidate.plan, picture))
        rows.append(Row(candidate.name, candidate.plan, candidate.precision, *span, *difference, peak))
    return rows


def time_picture(
    make: Callable[[], Picture], device: torch.device, warmups: int, runs: int
) -> tuple[Picture, list[float], float | None]:
    """Return the last picture, the milliseconds of each run, and the peak memory in GiB (None on the CPU).

    `make` returns once the picture is in host memory, so timing needs no synchronization.
    """
    for _ in range(warmups):
        make()
    peak = _peak_memory(make, device) if device.type == "cuda" else None
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        picture = make()
        times.append(1e3 * (time.perf_counter() - start))
    return picture, times, peak


def _peak_memory(make: Callable[[], Picture], device: torch.device) -> float:
    """Return the peak of reserved memory in GiB.

    Reserved, not allocated: a graph replay allocates nothing, because its memory was reserved at capture.
    """
    gc.collect()  # free the previous candidate
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    make()
    return torch.cuda.max_memory_reserved(device) / 2**30


def apart(picture: Picture, base: Picture) -> tuple[int, float | None]:
    """Return the largest difference in grey levels, and PSNR in dB (None for identical pictures)."""
    difference = picture.astype(np.float64) - base
    error = float(np.mean(difference**2))
    return int(np.abs(difference).max()), (10 * float(np.log10(255**2 / error)) if error else None)


def table(rows: Sequence[Row]) -> str:
    """Return a line of titles and one line per row."""
    titles = ("peer", "plan", "median ms", "min", "max", "levels", "PSNR dB", "GiB")
    lines = ["{:<26} {:<8} {:>10} {:>8} {:>8} {:>6} {:>8} {:>6}".format(*titles)]
    for row in rows:
        psnr, peak = ("-" if value is None else f"{value:.1f}" for value in (row.psnr_db, row.peak_gib))
        times = f"{row.median_ms:10.1f} {row.min_ms:8.1f} {row.max_ms:8.1f}"
        name = f"{row.name} ({row.precision})"
        lines.append(f"{name:<26} {row.plan:<8} {times} {row.max_difference:6} {psnr:>8} {peak:>6}")
    return "\n".join(lines)
