"""Figures of plans: what fewer evaluations cost in distance, and how far eps moves at each step."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from scoring.files import write_whole


def falling_errors(lines: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """A line for each method: distance from the whole run, by evaluations. PNG."""
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for name, errors in lines.items():
        axes.plot([*errors], [*errors.values()], marker="o", markersize=4, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("evaluations of the network")
    axes.set_ylabel("distance of the latent from that of all 20 steps")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right", frameon=False, fontsize=9)
    _write(figure, path)


def moving_eps(moves: Mapping[int, float], path: Path) -> None:
    """How far eps moves from one step to the next, the noisiest step first. PNG."""
    figure = Figure(figsize=(7, 3), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    indices = sorted(moves, reverse=True)
    axes.bar([str(index) for index in indices], [moves[index] for index in indices], color="#2f6f9f")
    axes.set_xlabel("step, the first on the left")
    axes.set_ylabel("change of eps, relative")
    axes.spines[["top", "right"]].set_visible(False)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    file = BytesIO()
    figure.savefig(file, format="png")
    write_whole(path, file.getvalue())
