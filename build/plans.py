"""python -m build plans: searches for the steps to evaluate, and fits their taps, for one checkpoint.

The requests form three folds that share no picture, prompt or seed: taps are fitted on the first, steps are chosen on
the second, and results are reported on the third. Fit plans in the precision that you will run them in.
Existing plan files are kept, so an interrupted search continues with the missing ones.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from files import check_file, locked
from plans.files import Distance, PlanFile, path_for, write_plan
from plans.folds import Folds, Measured, add_arguments
from plans.plan import STEPS, TEN, Plan
from plans.routes import Route, Routes, geometric_mean, to_plan
from plans.search import beam_search, climb, eliminate, evaluations_of_a_beam
from plans.taps import fitted, hold

# Candidates besides those that the search finds: the contest's list, and two that were good on other networks.
KNOWN = (TEN, (19, 18, 17, 16, 15, 13, 11, 8, 4, 1), (19, 18, 17, 16, 14, 12, 9, 6, 3, 1))
BEAM = 2


@dataclass(frozen=True)
class Search:
    """Searches for plans. Its searches share the cache in `routes`."""

    routes: Routes
    width: int  # of the beam
    thorough: bool

    def best(self, calls: Sequence[int]) -> Iterator[Route]:
        """Yield the best route found for each number of evaluations in `calls`, in that order."""
        beam, lists = self._beam(max(calls)), self._lists(min(calls))
        for one in calls:
            others = [known for known in (*KNOWN, lists.get(one, ())) if len(known) == one]
            yield self._choose([*beam[one], *others])

    def error(self, evaluated: Sequence[int]) -> float:
        return self.routes.error(self.routes.go(evaluated))

    def _beam(self, most: int) -> dict[int, list[tuple[int, ...]]]:
        with tqdm(total=evaluations_of_a_beam(STEPS, most, self.width), desc="beam", unit="evaluation") as bar:
            found = beam_search(self.routes, most, self.width, bar.update)
        return {calls: [route.evaluated for route in routes] for calls, routes in found.items()}

    def _lists(self, least: int) -> dict[int, tuple[int, ...]]:
        """Return the lists found by elimination, by number of evaluations; an empty dict unless `thorough`."""
        if not self.thorough:
            return {}
        with tqdm(total=sum(range(least, STEPS)), desc="elimination", unit="list") as bar:
            return eliminate(STEPS, least, self.error, bar.update)

    def _choose(self, candidates: Iterable[Sequence[int]]) -> Route:
        """Return the route of the best candidate; if `thorough`, improve it by hill climbing first."""
        best = min(candidates, key=self.error)
        if self.thorough:
            with tqdm(desc=f"hill climbing, {len(best)} evaluations", unit="list") as bar:
                best = climb(best, self.error, bar.update)
        return self.routes.go(best)


def even(calls: int) -> tuple[int, ...]:
    """Return `calls` evenly spaced steps, beginning with the first, noisiest step."""
    return tuple(STEPS - 1 - STEPS * i // calls for i in range(calls))


def summary(errors: Sequence[float]) -> dict[str, float]:
    ninth = statistics.quantiles(errors, n=10)[-1] if len(errors) > 1 else errors[0]
    return {
        "geometric mean": round(geometric_mean(errors), 5),
        "median": round(statistics.median(errors), 5),
        "90th percentile": round(ninth, 5),
    }


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError) as error:
        if options.debug:
            raise
        print(f"plans: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("plans: stopped; finished plans are kept; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    folds = Folds(options)
    architecture = folds.checkpoint.architecture
    missing = [calls for calls in options.calls if options.force or not path_for(architecture, calls).exists()]
    if not missing:
        print(f"plans: all exist in {path_for(architecture, options.calls[0]).parent}; use --force to search again")
        return
    for calls in missing:
        check_file(path_for(architecture, calls))
    with locked(path_for(architecture, 0).with_suffix(".lock"), "stop it"):
        _search(options, folds, missing)


def _search(options: argparse.Namespace, folds: Folds, missing: Sequence[int]) -> None:
    architecture = folds.checkpoint.architecture
    if folds.device.type == "cpu" and architecture == "sd15":
        print(f"plans: a search for {architecture} on a CPU may take days: use a GPU, or stop it", file=sys.stderr)
    rule = fitted(options.taps) if options.taps else hold
    routes = Routes(folds.examples, folds.schedule, rule, options.taps or 1)
    search = Search(routes, options.beam, options.thorough)
    print("evaluations   latent error, PD on the report fold: this plan   even steps   the contest's ten   file")
    for calls, route in zip(missing, search.best(missing), strict=True):
        plan = to_plan(route, STEPS)
        others = {"even, held": even(calls)} | ({"ten, held": TEN} if calls == len(TEN) else {})
        found = {"this plan": folds.measure(plan)}
        found |= {name: folds.measure(Plan(STEPS, evaluated)) for name, evaluated in others.items()}
        distance = Distance(folds.inception.metric_name, round(statistics.mean(found["this plan"].pd), 4))
        file = write_plan(PlanFile(architecture, plan, distance, _made(options, folds, found)))
        print(f"{calls:11d}   {'   '.join(map(_in_short, found.values()))}   {file}", flush=True)


def _made(options: argparse.Namespace, folds: Folds, found: dict[str, Measured]) -> dict[str, object]:
    return {
        "checkpoint": Path(folds.checkpoint.name).name,
        "precision": folds.precision.name,
        "torch": torch.__version__,
        "requests": {fold: len(requests) for fold, requests in folds.requests.items()},
        "pictures behind the distance": len(found["this plan"].pd),
        "beam": options.beam,
        "thorough": options.thorough,
        "latent error, report fold": {name: summary(one.latent) for name, one in found.items()},
    }


def _in_short(found: Measured) -> str:
    return f"{geometric_mean(found.latent):.4f}, {statistics.mean(found.pd):.4f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build plans", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--calls", type=_count, nargs="+", default=[8, 10], help="evaluations, one plan per number (default 8 10)")
    add("--taps", type=int, choices=range(4), default=2, help="how many eps to mix; 0 holds the last eps (default 2)")
    add("--beam", type=_count, default=BEAM, help=f"width of the beam search (default {BEAM})")
    add("--thorough", action="store_true", help="also use elimination and hill climbing; takes several times as long")
    add_arguments(parser)
    add("--force", action="store_true", help="search again for plans that already exist")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= STEPS:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 to {STEPS}")
    return number
