"""python -m build plans: finds, for the network that is here, which steps to evaluate, and the taps in between.

Three folds of requests that share neither picture nor prompt nor seed: the taps are fitted on the first, the steps are
chosen on the second, and what a plan is worth is said on the third. Fit it on the precision that you will run.
A plan that is there is kept, so that a search that was stopped goes on with what is missing.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from build.plan_search import (
    END,
    Examples,
    Rule,
    Schedule,
    beam_search,
    climb,
    eliminate,
    evaluations_of_a_beam,
    final_errors,
    fitted,
    follow,
    geometric_mean,
    given,
    hold,
    make_schedule,
    to_plan,
)
from build.plan_search import (
    Path as Way,
)
from canny2image_TRT import hackathon
from cldm.plan import TEN, Plan
from cldm.plan_files import PlanFile, path_for, write_plan
from cldm.probe import Probe
from cldm.request import Request
from ldm.diffusion import ddim_timesteps
from scoring.pictures import find_pictures

STEPS = 20
RESOLUTION = 256  # of the pictures, their shorter side
# Lists to begin with beside those that are found: the contest's, and two that were good on other networks.
KNOWN = (TEN, (19, 18, 17, 16, 15, 13, 11, 8, 4, 1), (19, 18, 17, 16, 14, 12, 9, 6, 3, 1))
FOLDS = ("calibration", "selection", "report")
PROMPTS = (
    "a bird", "a red bird at sunset", "a blue bird", "a mountain", "a green hill by the sea", "a ship", "a flower",
    "a yellow fish", "clouds over a lake",
)  # fmt: skip
USUAL = "best quality, extremely detailed", "longbody, lowres, bad anatomy, bad hands, missing fingers"


@dataclass(frozen=True)
class Search:
    """How plans are looked for."""

    schedule: Schedule
    folds: dict[str, Examples]
    rule: Rule
    taps: int
    width: int  # of the beam
    thorough: bool

    def plans(self, calls: Sequence[int]) -> Iterator[Plan]:
        """The best plan found for each of these numbers of evaluations, one after another."""
        paths, lists = self._paths(max(calls)), self._lists(min(calls))
        for one in calls:
            others = [known for known in (*KNOWN, lists.get(one, ())) if len(known) == one]
            yield self._choose([*(path.evaluated for path in paths[one]), *others])

    def _paths(self, most: int) -> dict[int, list[Way]]:
        """The best of the beam on the calibration fold, for each number of evaluations."""
        with tqdm(total=evaluations_of_a_beam(STEPS, most, self.width), desc="beam", unit="evaluation") as bar:
            return beam_search(
                self.folds["calibration"], self.schedule, self.rule, self.taps, most, self.width, bar.update
            )

    def _lists(self, least: int) -> dict[int, tuple[int, ...]]:
        """By elimination on the calibration fold, for each number of evaluations; none unless thorough."""
        if not self.thorough:
            return {}
        with tqdm(total=sum(range(least, STEPS)), desc="elimination", unit="list") as bar:
            return eliminate(STEPS, least, self._calibration_error, bar.update)

    def _choose(self, candidates: Iterable[Sequence[int]]) -> Plan:
        """The best list, or one around it if thorough, on the selection fold; its taps are of the calibration."""
        best = min(candidates, key=self._selection_error)
        if self.thorough:
            with tqdm(desc=f"neighbours of {len(best)}", unit="list") as bar:
                best = climb(best, self._selection_error, bar.update)
        return to_plan(self._calibrated(best), STEPS)

    def errors(self, evaluated: Sequence[int], taps: Sequence[tuple[float, ...]], fold: str) -> list[float]:
        """Of each example of the fold, in the latent; taps: none to hold eps."""
        rule = given(taps) if taps else hold
        return final_errors(follow(evaluated, self.folds[fold], self.schedule, rule, self.taps), self.folds[fold])

    def _calibrated(self, evaluated: Sequence[int]) -> Way:
        return follow(evaluated, self.folds["calibration"], self.schedule, self.rule, self.taps)

    def _calibration_error(self, evaluated: Sequence[int]) -> float:
        return geometric_mean(final_errors(self._calibrated(evaluated), self.folds["calibration"]))

    def _selection_error(self, evaluated: Sequence[int]) -> float:
        return geometric_mean(self.errors(evaluated, self._calibrated(evaluated).taps, "selection"))


def make_requests(fold: int, count: int, folder: Path | None) -> list[Request]:
    """Requests of one fold. Raises ValueError if the pictures are too few for all folds."""
    pictures = list(find_pictures(folder).values())[fold :: len(FOLDS)]
    prompts = PROMPTS[fold :: len(FOLDS)]
    if not pictures:
        raise ValueError(f"pictures: got too few for {len(FOLDS)} folds that share none; give 3 or more")
    return [
        Request(
            pictures[i % len(pictures)], prompts[i % len(prompts)], *USUAL, 1, RESOLUTION, STEPS, False, 1.0, 9.0,
            1000 * fold + i, 0.0, 100, 200,
        )
        for i in range(count)
    ]  # fmt: skip


def make_examples(probe: Probe, schedule: Schedule, tell: Callable[[], object] = lambda: None) -> Examples:
    """The requests of the probe, with their runs that evaluate every step."""
    timesteps = ddim_timesteps(STEPS)

    def network(x: Tensor, index: int) -> Tensor:
        return probe(x, timesteps[index])

    x = probe.starts
    whole = {STEPS - 1: x}
    for index in range(STEPS - 1, END, -1):
        a, w = schedule(index, index - 1)
        x = whole[index - 1] = a * x + w * network(x, index)
        tell()
    return Examples(network, whole)


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
        print(f"plans: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("plans: stopped; what was written stays, the same command goes on", file=sys.stderr)
        return 130
    return 0


def make_runtime(options: argparse.Namespace) -> hackathon:
    """As the arguments of `add_arguments` say. Raises ValueError."""
    chosen = {name: getattr(options, name) for name in ("architecture", "backend", "precision", "device")}
    return hackathon(options.checkpoint, plan="all", **chosen)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every search of plans needs to know."""
    add = parser.add_argument
    add("--examples", type=_positive, default=6, help="requests in each fold (default 6)")
    add("--beam", type=_positive, default=2, help="beginnings that the search keeps (default 2)")
    add("--pictures", type=Path, help="folder of pictures of one size; default: the contest's, else eight drawn birds")
    add("--checkpoint", help="the weights; default: see README")
    add("--architecture", help="a file of models/*.yaml; by default the checkpoint's")
    add("--backend", default="auto")
    add("--precision", default="auto", help="auto, fp32 or fp16")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _run(options: argparse.Namespace) -> None:
    runtime = make_runtime(options)
    architecture = runtime.checkpoint.architecture
    missing = [calls for calls in options.calls if options.force or not path_for(architecture, calls).exists()]
    if not missing:
        print(f"plans: all there, in {path_for(architecture, options.calls[0]).parent}; --force finds them anew")
        return
    requests = {name: make_requests(i, options.examples, options.pictures) for i, name in enumerate(FOLDS)}
    runtime.initialize()
    runtime.process(**vars(requests["calibration"][0]))  # a pipeline of the requests' shape
    pipeline = next(reversed(runtime.pipelines.values()))
    schedule = make_schedule(pipeline.abar, STEPS)
    folds = {}
    with tqdm(total=len(FOLDS) * STEPS, desc="every step", unit="step") as bar:
        for name in FOLDS:
            probe = Probe(pipeline, requests[name], runtime.tokenizer)
            folds[name] = make_examples(probe, schedule, bar.update)
    rule = fitted(options.taps) if options.taps else hold
    search = Search(schedule, folds, rule, options.taps or 1, options.beam, options.thorough)
    made = {
        "checkpoint": Path(runtime.checkpoint.name).name,
        "backend": runtime.backend.name,
        "precision": runtime.precision.name,
        "torch": torch.__version__,
        "examples in each fold": options.examples,
        "beam": options.beam,
        "thorough": options.thorough,
    }
    print("evaluations   this plan   even   ten of the contest (latent error on the report fold, geometric mean)")
    for calls, plan in zip(missing, search.plans(missing), strict=True):
        errors = {"this plan": summary(search.errors(plan.evaluated, plan.taps, "report"))}
        errors["even, held"] = summary(search.errors(even(calls), (), "report"))
        if calls == len(TEN):
            errors["ten, held"] = summary(search.errors(TEN, (), "report"))
        path = write_plan(PlanFile(architecture, plan, {**made, "latent error, report fold": errors}))
        means = "   ".join(f"{one['geometric mean']:.4f}" for one in errors.values())
        print(f"{calls:11d}   {means}   {path}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build plans", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--calls", type=_count, nargs="+", default=[8, 10], help="evaluations of each plan (default 8 10)")
    add("--taps", type=int, choices=range(4), default=2, help="eps that are mixed; 0: the last one is held (default 2)")
    add("--thorough", action="store_true", help="try far more lists, which takes several times as long")
    add_arguments(parser)
    add("--force", action="store_true", help="find those anew that are there")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= STEPS:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 to {STEPS}")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return number
