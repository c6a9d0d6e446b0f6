"""Saves the results of a comparison of plans as JSON, loads them to continue it, and formats them as tables."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plan_methods import PUBLISHED, TWO_TAPS
from files import write_whole
from plans.files import plan_of
from plans.folds import Measured
from plans.plan import Plan
from plans.routes import geometric_mean
from reading import read_object

ON_ENGINES = "two taps, by process()"
TIMED = (PUBLISHED, TWO_TAPS)


@dataclass(frozen=True)
class Timed:
    milliseconds: float  # median of process()
    nodes: int | None  # of the graph; None without a graph


@dataclass(frozen=True)
class Result:
    """One method with one number of evaluations."""

    method: str
    calls: int
    measured: Measured
    plan: Plan | None = None  # None: the method has no plan
    timed: Timed | None = None  # None: not timed on engines

    @property
    def geometric_mean(self) -> float:
        return geometric_mean(self.measured.latent)


def save(
    path: Path,
    asked: Mapping[str, Any],
    results: Sequence[Result],
    backend: str | None = None,
    moves: Mapping[int, float] | None = None,
) -> None:
    """Write the results as JSON.

    asked: the settings that results depend on. backend: the backend of process(), None until it has run. moves: the
    change of eps by step index.
    """
    measured = [asdict(one) for one in results]
    values = {"asked": asked, "backend of process()": backend, "moves of eps": moves, "results": measured}
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode())


def load(path: Path, asked: Mapping[str, Any]) -> list[Result]:
    """Return the results of an interrupted comparison with the same settings.

    The list is empty if there is no file, or if the comparison in it is complete or had other settings.
    Raise ValueError if the file is damaged.
    """
    try:
        values = read_object(path)
        results = [_result(one) for one in values["results"]]
        goes_on = values["asked"] == asked and values["backend of process()"] is None
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not contain results of this comparison ({type(error).__name__}: {error}); delete it, or "
            "choose another folder with --out"
        ) from error
    return results if goes_on else []


def _result(values: Mapping[str, Any]) -> Result:
    plan = values["plan"] and plan_of(values["plan"])
    return Result(values["method"], values["calls"], Measured(**values["measured"]), plan)


def tables(results: Sequence[Result], detailed: Sequence[int], metric: str) -> str:
    """Return Markdown tables: latent errors of all results, times, and details for some numbers of evaluations."""
    calls = sorted({one.calls for one in results})
    lines = [_row("evaluations", *calls), _row(*["---"] * (1 + len(calls)))]
    for name in dict.fromkeys(one.method for one in results):
        of = {one.calls: one for one in results if one.method == name}
        lines.append(_row(name, *(f"{of[n].geometric_mean:.4f}" if n in of else "" for n in calls)))
    for name in TIMED:
        times = {one.calls: one.timed for one in results if one.method == name}
        known = [times.get(n) for n in calls]
        lines.append(_row(f"ms: {name}", *(f"{one.milliseconds:.2f}" if one else "" for one in known)))
        lines.append(_row(f"graph nodes: {name}", *(one.nodes or "" if one else "" for one in known)))
    for n in detailed:
        titles = ("mean", "median", "90th percentile", "worst", "nearest of all", metric, "SSIM")
        lines += ["", _row(f"{n} evaluations", *titles), _row(*["---"] * (1 + len(titles)))]
        lines += _details([one for one in results if one.calls == n])
    return "\n".join(lines)


def _details(results: Sequence[Result]) -> list[str]:
    """Return a row per result. "nearest of all": the share of requests for which no other method has a smaller error.

    The run on engines is excluded from "nearest of all", because another row has the same plan.
    """
    rivals = [one.measured.latent for one in results if one.method != ON_ENGINES]
    least = [min(values) for values in zip(*rivals, strict=True)]
    lines = []
    for one in results:
        latent = one.measured.latent
        nearest = sum(value == best for value, best in zip(latent, least, strict=True)) / len(least)
        numbers = (statistics.mean(latent), statistics.median(latent), float(np.quantile(latent, 0.9)), max(latent))
        pictures = (statistics.mean(one.measured.pd), statistics.mean(one.measured.ssim))
        share = "" if one.method == ON_ENGINES else f"{nearest:.0%}"
        lines.append(_row(one.method, *(f"{v:.4f}" for v in numbers), share, *(f"{v:.4f}" for v in pictures)))
    return lines


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
