"""python -m benchmarks.plans: compares methods that save evaluations, by distance from all 20 steps and by time.

The requests are not those that plans were fitted or chosen on. The target is the DDIM run with all 20 steps. The
networks run in PyTorch. Plans with two taps and the published list are also timed on this machine's engines. The figure
of distance by time shows the other methods at the time of two taps with the same number of evaluations.
The same command continues an interrupted comparison: it reuses the results in --out, even if the code has changed.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.peers import settle_architecture
from benchmarks.plan_methods import TWO_TAPS, methods
from benchmarks.plan_results import ON_ENGINES, TIMED, Result, Timed, load, save, tables
from build.plans import BEAM
from canny2image_TRT import hackathon
from cldm.request import Request
from commands import one_line
from files import check_file, check_writable, digest, locked, write_whole
from plans.folds import Folds, add_arguments
from plans.plan import STEPS, Plan
from plans.routes import END, Examples, Schedule
from runtime.machine import machine
from runtime.timing import median_ms
from scoring.outputs import check_apart
from scoring.pictures import DRAWN_BIRDS
from scoring.plan_figures import distances_by_time, falling_errors, moving_eps

JSON = "plans.json"
FILES = ("plans.md", "plans.png", "times.png", "moves.png")


class Engines:
    """Generates pictures like process(), with given plans, on the chosen backend's engines."""

    def __init__(self, folds: Folds, backend: str) -> None:
        self.folds = folds
        self.runtime = hackathon(
            folds.checkpoint.name,
            architecture=folds.checkpoint.architecture,
            backend=backend,
            precision=folds.precision.name,
            device=str(folds.device),
        )
        self.runtime.initialize()

    def time(self, plan: Plan, runs: int) -> Timed:
        asked = self.folds.requests["report"][0]
        milliseconds = median_ms(lambda: self.runtime.draw(replace(asked), plan), runs, warmups=2)
        graph = self.runtime.graph
        return Timed(milliseconds, graph.nodes if graph else None)

    def draw(self, plan: Plan) -> Tensor:
        """Return the final latents of the reported requests."""
        latents = []
        for request in tqdm(self.folds.requests["report"], desc=ON_ENGINES):
            self.runtime.draw(request, plan)
            latents.append(self.runtime.latent)
        return torch.cat(latents)


def measure(folds: Folds, options: argparse.Namespace, known: Sequence[Result]) -> Iterator[list[Result]]:
    """Run all methods, except where results are known. After each method, yield all results so far, sorted."""
    ways = methods(folds, options.calls, options.beam, options.thorough)
    results = [one for one in known if one.method in ways]
    there = {(one.method, one.calls) for one in results}
    for name, way in tqdm(ways.items(), desc="methods"):
        for n in options.calls:
            made = None if (name, n) in there else way(n)
            if isinstance(made, Tensor):
                results.append(Result(name, n, folds.compare(made)))
            elif made:
                results.append(Result(name, n, folds.measure(made), made))
        yield sorted(results, key=lambda one: ([*ways].index(one.method), one.calls))


def on_engines(results: Sequence[Result], folds: Folds, options: argparse.Namespace, engines: Engines) -> list[Result]:
    """Return the results with times for TIMED methods, and results of two taps by process() for options.detailed."""
    found = list(results)
    for index, one in enumerate(tqdm(results, desc="by process()")):
        if one.plan and one.method in TIMED:
            found[index] = replace(one, timed=engines.time(one.plan, options.runs))
        if one.plan and one.method == TWO_TAPS and one.calls in options.detailed:
            found.append(Result(ON_ENGINES, one.calls, folds.compare(engines.draw(one.plan)), one.plan))
    return found


def moves(examples: Examples, schedule: Schedule) -> dict[int, float]:
    """Return the change of eps from the previous step of the whole run, relative to its norm, by step index."""
    eps = {}
    for index in range(STEPS - 1, END, -1):
        a, w = schedule(index, index - 1)
        eps[index] = (examples.whole[index - 1] - a * examples.whole[index]) / w
    return {index: float((eps[index] - eps[index + 1]).norm() / eps[index].norm()) for index in range(STEPS - 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    numbers: dict[str, Any] = {"type": int, "choices": range(1, STEPS + 1), "metavar": "N"}
    add("--calls", nargs="+", default=list(range(5, 16)), help="numbers of evaluations; default 5 to 15", **numbers)
    add("--detailed", nargs="*", default=[8, 10], help="which of --calls get a table; default 8 10", **numbers)
    add("--beam", type=int, default=BEAM, help=f"width of the beam search (default {BEAM})")
    add("--thorough", action="store_true", help="search as python -m build plans --thorough does")
    add_arguments(parser)
    add("--backend", default="auto", help="backend for process(); default: auto")
    add("--runs", type=int, default=5, help="timed runs per plan (default 5)")
    add(
        "--out",
        type=Path,
        default=Path("score/plans"),
        help="folder for tables, figures and JSON; default: score/plans",
    )
    options = parser.parse_args(arguments)
    with one_line(options.debug, f"finished methods are kept in {options.out / JSON}; run the same command to go on"):
        check_apart(options.out, options.pictures or DRAWN_BIRDS)
        check_writable(options.out)
        with locked(options.out / ".plans.lock", "choose another --out"):
            for name in (JSON, *FILES):
                check_file(options.out / name)
            compare(options)


def compare(options: argparse.Namespace) -> None:
    """Measure all methods, and write the results to --out."""
    folds = Folds(options)
    settle_architecture(options.architecture, folds.device, folds.checkpoint.architecture)
    asked = _asked(folds, options)
    results: list[Result] = []
    for results in measure(folds, options, load(options.out / JSON, asked)):
        save(options.out / JSON, asked, results)
    _report(options, folds, results)  # report now, because creating and capturing pipelines takes minutes
    engines = Engines(folds, options.backend)
    results = on_engines(results, folds, options, engines)
    moved = moves(folds.examples, folds.schedule)
    save(options.out / JSON, asked, results, engines.runtime.backend.name, moved)
    _report(options, folds, results)
    print((options.out / "plans.md").read_text(), end="")


def _asked(folds: Folds, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "checkpoint": Path(folds.checkpoint.name).name,
        "weights": folds.checkpoint.fingerprint(),
        "precision": folds.precision.name,
        "machine": dict(machine(folds.device)),
        "requests": {fold: f"{len(asked)}, {_digest(asked)}" for fold, asked in folds.requests.items()},
        "drawn": options.drawn,
        "metric": folds.inception.metric_name,
        "beam": options.beam,
        "thorough": options.thorough,
    }


def _digest(requests: Sequence[Request]) -> str:
    said = [vars(one) | {"input_image": digest(one.source.tobytes())} for one in requests]
    return digest(repr(said))[:16]


def _report(options: argparse.Namespace, folds: Folds, results: Sequence[Result]) -> None:
    metric = folds.inception.metric_name
    shown = tables(results, [n for n in options.detailed if n in options.calls], metric)
    write_whole(options.out / "plans.md", f"{shown}\n".encode())
    drawn = [one for one in results if one.method != ON_ENGINES]
    names = dict.fromkeys(one.method for one in drawn)
    lines = {name: {one.calls: one.geometric_mean for one in drawn if one.method == name} for name in names}
    falling_errors(lines, options.out / "plans.png")
    if any(one.timed for one in drawn):
        distances_by_time(_points(drawn), metric, options.out / "times.png")
    moving_eps(moves(folds.examples, folds.schedule), options.out / "moves.png")


def _points(results: Sequence[Result]) -> dict[str, list[tuple[float, float]]]:
    """Return (milliseconds, mean PD) by method. A method that was not timed gets the milliseconds of two taps."""
    usual = {one.calls: one.timed.milliseconds for one in results if one.timed and one.method == TWO_TAPS}
    points: dict[str, list[tuple[float, float]]] = {}
    for one in results:
        milliseconds = one.timed.milliseconds if one.timed else usual[one.calls]
        points.setdefault(one.method, []).append((milliseconds, statistics.mean(one.measured.pd)))
    return points


if __name__ == "__main__":
    main()
