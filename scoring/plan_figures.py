"""Draws figures about plans: distance by number of evaluations, distance by time, and the change of eps per step."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from files import write_whole
from scoring.leaderboard import leaderboard_score


def falling_errors(lines: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Write a PNG with a line per method: distance from the latent of all 20 steps, by number of evaluations."""
    figure, axes = _lines()
    for name, errors in lines.items():
        axes.plot([*errors], [*errors.values()], marker="o", markersize=4, label=name)
    axes.set_xlabel("evaluations of the network")
    axes.set_ylabel("distance from the latent of all 20 steps")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right", frameon=False, fontsize=9)
    _write(figure, path)


def distances_by_time(points: Mapping[str, Sequence[tuple[float, float]]], metric: str, path: Path) -> None:
    """Write a PNG with a line per method: mean distance of the pictures, by time.

    points: (milliseconds, mean distance) by method. If the metric is the contest's PD, contours show the leaderboard
    score.
    """
    figure, axes = _lines()
    for name, pairs in points.items():
        axes.plot(*zip(*sorted(pairs), strict=True), marker="o", markersize=4, label=name)
    axes.set_xlabel("milliseconds of process()")
    axes.set_ylabel(f"mean {metric} from the float32 picture of all 20 steps")
    if metric == "PD":
        axes.set_yscale("linear")
        _score_contours(axes)
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right", frameon=False, fontsize=9)
    _write(figure, path)


def _lines() -> tuple[Figure, Axes]:
    """Return a figure and its axes, with a logarithmic vertical axis and twenty line colours."""
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    axes.set_prop_cycle(color=[*colours[::2], *colours[1::2]])
    axes.set_yscale("log")
    return figure, axes


def _score_contours(axes: Axes) -> None:
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    times, distances = np.linspace(max(left, 1e-3), right, 100), np.linspace(max(low, 0.0), high, 100)
    scores = [[leaderboard_score(float(ms), float(pd)) for ms in times] for pd in distances]
    axes.clabel(axes.contour(times, distances, scores, colors="grey", linewidths=0.6), fmt="%d", fontsize=7)


def moving_eps(moves: Mapping[int, float], path: Path) -> None:
    """Write a PNG of the relative change of eps from step to step, the noisiest step first."""
    figure = Figure(figsize=(7, 3), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    indices = sorted(moves, reverse=True)
    axes.bar([str(index) for index in indices], [moves[index] for index in indices], color="#2f6f9f")
    axes.set_xlabel("step index, in order of execution")
    axes.set_ylabel("relative change of eps")
    axes.spines[["top", "right"]].set_visible(False)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    file = BytesIO()
    figure.savefig(file, format="png")
    write_whole(path, file.getvalue())
