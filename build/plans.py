"""python -m build plans: finds, for the network that is here, which steps to evaluate, and the taps in between.

Three folds of requests that share neither picture nor prompt nor seed: the taps are fitted on the first, the steps are
chosen on the second, and what a plan is worth is said on the third. Fit it in the precision that you will run.
A plan that is there is kept, so that a search that was stopped goes on with what is missing.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from plans.files import Distance, PlanFile, path_for, write_plan
from plans.folds import Folds, Measured, add_arguments
from plans.plan import STEPS, TEN, Plan
from plans.routes import Route, Routes, geometric_mean, to_plan
from plans.search import beam_search, climb, eliminate, evaluations_of_a_beam
from plans.taps import fitted, hold

# Lists to begin with beside those that are found: the contest's, and two that were good on other networks.
KNOWN = (TEN, (19, 18, 17, 16, 15, 13, 11, 8, 4, 1), (19, 18, 17, 16, 14, 12, 9, 6, 3, 1))
BEAM = 2


@dataclass(frozen=True)
class Search:
    """How plans are looked for; what one search has found helps the next."""

    routes: Routes
    width: int  # of the beam
    thorough: bool

    def best(self, calls: Sequence[int]) -> Iterator[Route]:
        """The best route found for each of these numbers of evaluations, one after another."""
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
        """By elimination, for each number of evaluations; none unless thorough."""
        if not self.thorough:
            return {}
        with tqdm(total=sum(range(least, STEPS)), desc="elimination", unit="list") as bar:
            return eliminate(STEPS, least, self.error, bar.update)

    def _choose(self, candidates: Iterable[Sequence[int]]) -> Route:
        """The best list, or one around it if thorough."""
        best = min(candidates, key=self.error)
        if self.thorough:
            with tqdm(desc=f"neighbours of {len(best)}", unit="list") as bar:
                best = climb(best, self.error, bar.update)
        return self.routes.go(best)


def even(calls: int) -> tuple[int, ...]:
    """Steps as far apart as plain DDIM with so many would take them."""
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
        print("plans: stopped; what was written stays, the same command goes on", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    folds = Folds(options)
    architecture = folds.checkpoint.architecture
    missing = [calls for calls in options.calls if options.force or not path_for(architecture, calls).exists()]
    if not missing:
        print(f"plans: all there, in {path_for(architecture, options.calls[0]).parent}; --force finds them anew")
        return
    rule = fitted(options.taps) if options.taps else hold
    routes = Routes(folds.examples, folds.schedule, rule, options.taps or 1)
    search = Search(routes, options.beam, options.thorough)
    print("evaluations   latent error, PD of this plan   even   ten of the contest (on the report fold)")
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
    add("--calls", type=_count, nargs="+", default=[8, 10], help="evaluations of each plan (default 8 10)")
    add("--taps", type=int, choices=range(4), default=2, help="eps that are mixed; 0: the last one is held (default 2)")
    add("--beam", type=_count, default=BEAM, help=f"beginnings that the search keeps (default {BEAM})")
    add("--thorough", action="store_true", help="try far more, which takes several times as long")
    add_arguments(parser)
    add("--force", action="store_true", help="find those anew that are there")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= STEPS:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 to {STEPS}")
    return number
