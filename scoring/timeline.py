"""Draws when each stage ran, in one row per stream."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from files import write_whole

Row = tuple[str, str, float, float]  # stage, stream, start and end in milliseconds

STREAMS = ("main", "side")
COLOURS = {
    "text": "#8c6bb1", "hint": "#f2a541", "encoder": "#4c9bd6", "control": "#e07b54", "decoder": "#2f6f9f",
    "update": "#333333", "vae": "#5aa469", "copy": "#b0b0b0",
}  # fmt: skip


def timeline_picture(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write a PNG with one bar per row of `rows`, atomically."""
    figure = Figure(figsize=(16, 2.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for name, stream, start, end in rows:
        axes.barh(STREAMS.index(stream), end - start, left=start, height=0.72, color=COLOURS[name], linewidth=0)
    axes.set_yticks(range(len(STREAMS)), STREAMS)
    axes.invert_yaxis()
    axes.set_xlim(0, max(end for *_, end in rows))
    axes.set_xlabel("ms")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    names = totals(rows)
    handles = [Patch(color=COLOURS[name], label=f"{name} {total:.1f}") for name, total in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    file = BytesIO()
    figure.savefig(file, format="png")
    write_whole(path, file.getvalue())


def totals(rows: Sequence[Row]) -> dict[str, float]:
    """Return the total milliseconds of each stage by name, in the order of the rows."""
    sums: dict[str, float] = {}
    for name, _, start, end in rows:
        sums[name] = sums.get(name, 0.0) + end - start
    return sums
