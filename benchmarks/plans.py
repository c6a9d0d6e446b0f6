"""python -m benchmarks.plans: how near ways to save evaluations come to the picture of all 20 steps.

On requests that no plan was fitted or chosen on. The aim is the 20-step DDIM run, so that solvers of the differential
equation, which aim at its exact solution, are measured by something else than what they are made for.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from build.plan_search import (
    END,
    Examples,
    Rule,
    fitted,
    follow,
    geometric_mean,
    given,
    hold,
    linear,
    make_schedule,
)
from build.plans import FOLDS, STEPS, Search, add_arguments, even, make_examples, make_requests, make_runtime
from canny2image_TRT import hackathon
from cldm.pipeline import Pipeline, Shape
from cldm.plan import TEN, Plan, evaluations, make_plan
from cldm.probe import Probe
from ldm.config import load_architecture
from ldm.diffusion import ddim_timesteps
from scoring.distance import perceptual_distance, ssim
from scoring.files import check_writable, write_whole
from scoring.inception import Inception, load_inception
from scoring.plan_figures import falling_errors, moving_eps

WHOLE = "all steps"


@dataclass(frozen=True)
class Result:
    """One method with one number of evaluations; lists have a value per request."""

    method: str
    calls: int
    latent: list[float]  # root of the mean squared difference
    pd: list[float] | None = None  # perceptual distance, PD* without the real Inception weights
    ssim: list[float] | None = None

    @property
    def geometric_mean(self) -> float:
        return geometric_mean(self.latent)


class Bench:
    """The requests of all folds on one runtime, and the plans that are found for them."""

    def __init__(
        self, runtime: hackathon, examples: int, width: int, calls: Sequence[int], folder: Path | None
    ) -> None:
        self.runtime, self.width, self.calls = runtime, width, calls
        self.requests = {name: make_requests(fold, examples, folder) for fold, name in enumerate(FOLDS)}
        self.asked = self.requests["report"]
        runtime.process(**vars(self.asked[0]))  # a pipeline of the requests' shape
        self.pipeline = next(reversed(runtime.pipelines.values()))
        self.schedule = make_schedule(self.pipeline.abar, STEPS)
        self.probes = {name: Probe(self.pipeline, asked, runtime.tokenizer) for name, asked in self.requests.items()}
        self.found: dict[str, dict[int, Plan]] = {}

    @cached_property
    def examples(self) -> dict[str, Examples]:
        return {name: make_examples(probe, self.schedule) for name, probe in tqdm(self.probes.items(), desc=WHOLE)}

    def searched(self, name: str, rule: Rule, keep: int, calls: int) -> Plan:
        """The plan that `python -m build plans` would find with this rule."""
        if name not in self.found:
            search = Search(self.schedule, self.examples, rule, keep, self.width, thorough=False)
            self.found[name] = dict(zip(self.calls, search.plans(self.calls), strict=True))
        return self.found[name][calls]

    def along(self, evaluated: Sequence[int], taps: Sequence[tuple[float, ...]] = ()) -> Tensor:
        """The latents at the end of a plan's steps, of the requests that are reported."""
        keep = len(taps[0]) if taps else 1
        rule = given(taps) if taps else hold
        return follow(evaluated, self.examples["report"], self.schedule, rule, keep).x

    def ddim(self, calls: int) -> Tensor | None:
        """DDIM with fewer steps, as `ddim_steps` gives it; None where there is no such count."""
        try:
            if len(ddim_timesteps(calls)) != calls:
                return None
        except ValueError:
            return None
        x = self.probes["report"].starts
        for step in evaluations(make_plan("all", calls), self.pipeline.abar, calls):
            x = step.a * x + step.weights[0] * self.probes["report"](x, step.timestep)
        return x

    def solver(self, scheduler: str, calls: int) -> Tensor:
        """A scheduler of the diffusers library, as it is usually set up for Stable Diffusion."""
        import diffusers  # only here: the rest needs none

        schedule = load_architecture(self.runtime.checkpoint.architecture).schedule
        made = getattr(diffusers, scheduler)(
            num_train_timesteps=schedule.steps,
            beta_start=schedule.beta_start,
            beta_end=schedule.beta_end,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        )
        made.set_timesteps(calls)
        x = self.probes["report"].starts
        for timestep in made.timesteps:
            x = made.step(self.probes["report"](x, int(timestep)), timestep, x).prev_sample
        return x

    def run(self, plan: Plan) -> Tensor:
        """The latents of a pipeline with this plan."""
        shape = Shape(*self.asked[0].size, 1, STEPS, plan)
        pipeline = Pipeline(self.runtime.model, shape, self.runtime.backend.make_engine, self.runtime.lanes)
        latents = []
        for request in self.asked:
            pipeline(request, self.runtime.tokenizer)
            latents.append(pipeline.buffers["x"].clone())
        return torch.stack(latents)


def methods(bench: Bench) -> dict[str, Callable[[int], Tensor | None]]:
    """By name: the latents that a method makes with so many evaluations; None where it has no such number."""

    def plan(name: str, rule: Rule, keep: int) -> Callable[[int], Tensor]:
        def make(calls: int) -> Tensor:
            found = bench.searched(name, rule, keep, calls)
            return bench.along(found.evaluated, found.taps)

        return make

    def every_other_control(calls: int) -> Tensor:
        found = bench.searched("two taps", fitted(2), 2, calls)
        control = tuple(index % 2 == 0 for index in range(calls))
        return bench.run(Plan(STEPS, found.evaluated, found.taps, control))

    return {
        "DDIM, fewer steps": bench.ddim,
        "even steps, held": lambda calls: bench.along(even(calls)),
        "published list, held": lambda calls: bench.along(TEN) if calls == len(TEN) else None,
        "DPM-Solver++ 2M": lambda calls: bench.solver("DPMSolverMultistepScheduler", calls),
        "UniPC": lambda calls: bench.solver("UniPCMultistepScheduler", calls),
        "searched, held": plan("held", hold, 1),
        "searched, linear": plan("linear", linear(bench.schedule), 2),
        "searched, one tap": plan("one tap", fitted(1), 1),
        "searched, two taps": plan("two taps", fitted(2), 2),
        "searched, three taps": plan("three taps", fitted(3), 3),
        "two taps, ControlNet every other time": every_other_control,
    }


def measure(bench: Bench, calls: Sequence[int], scored: Sequence[int], inception: Inception | None) -> list[Result]:
    """All methods with all numbers of evaluations; pictures are compared for the `scored` ones."""
    whole = bench.examples["report"].whole[END]
    results = []
    todo = [(name, make, n) for name, make in methods(bench).items() for n in calls]
    with TemporaryDirectory() as folder:
        base = _save(bench.probes["report"].pictures(whole), Path(folder), WHOLE) if inception else []
        for name, make, n in tqdm(todo, desc="methods"):
            latents = make(n)
            if latents is None:
                continue
            errors = [float(one) for one in (latents - whole).double().flatten(1).square().mean(dim=1).sqrt()]
            if inception is None or n not in scored:
                results.append(Result(name, n, errors))
                continue
            drawn = list(zip(base, _save(bench.probes["report"].pictures(latents), Path(folder), name), strict=True))
            distances = [perceptual_distance(one, other, inception) for one, other in drawn]
            results.append(Result(name, n, errors, distances, [ssim(one, other) for one, other in drawn]))
    return results


def moves(examples: Examples, schedule: Callable[[int, int], tuple[float, float]]) -> dict[int, float]:
    """How far eps moves from one step of the whole run to the next, relative to its length, by step index."""
    eps = {}
    for index in range(STEPS - 1, END, -1):
        a, w = schedule(index, index - 1)
        eps[index] = (examples.whole[index - 1] - a * examples.whole[index]) / w
    return {index: float((eps[index] - eps[index + 1]).norm() / eps[index].norm()) for index in range(STEPS - 1)}


def tables(results: Sequence[Result]) -> str:
    """Markdown: latent errors of all, and what the pictures say where they were compared."""
    calls = sorted({one.calls for one in results})
    by = {(one.method, one.calls): one for one in results}
    names = list(dict.fromkeys(one.method for one in results))
    lines = ["| evaluations | " + " | ".join(map(str, calls)) + " |", "|---" * (1 + len(calls)) + "|"]
    for name in names:
        cells = (f"{by[name, n].geometric_mean:.4f}" if (name, n) in by else "" for n in calls)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for n in calls:
        rows = [one for one in results if one.calls == n and one.pd is not None and one.ssim is not None]
        if not rows:
            continue
        best = [min(values) for values in zip(*(row.latent for row in rows), strict=True)]
        lines += [
            "",
            f"| {n} evaluations | mean | median | 90th percentile | nearest of all | PD | SSIM |",
            "|---" * 7 + "|",
        ]
        for row in rows:
            nearest = sum(value == least for value, least in zip(row.latent, best, strict=True)) / len(best)
            ninth = float(np.quantile(row.latent, 0.9))
            assert row.pd is not None
            assert row.ssim is not None
            lines.append(
                f"| {row.method} | {statistics.mean(row.latent):.4f} | {statistics.median(row.latent):.4f} | "
                f"{ninth:.4f} | {nearest:.0%} | {statistics.mean(row.pd):.4f} | {statistics.mean(row.ssim):.4f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    usual = list(range(5, 16))
    allowed = range(1, STEPS + 1)
    add(
        "--calls", type=int, nargs="+", choices=allowed, default=usual, metavar="N", help="evaluations; default 5 to 15"
    )
    add("--scored", type=int, nargs="*", default=[8, 10], help="numbers of which the pictures are compared as well")
    add_arguments(parser)
    add("--out", type=Path, default=Path("plans"), help="folder for table, figures and JSON; default: plans")
    options = parser.parse_args(arguments)
    try:
        check_writable(options.out)
        runtime = make_runtime(options)
        inception = load_inception(device=runtime.device) if options.scored else None
        runtime.initialize()
        bench = Bench(runtime, options.examples, options.beam, options.calls, options.pictures)
        results = measure(bench, options.calls, options.scored, inception)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    moved = moves(bench.examples["report"], bench.schedule)
    print(tables(results))
    _report(options, runtime, results, moved)


def _report(
    options: argparse.Namespace, runtime: hackathon, results: Sequence[Result], moved: Mapping[int, float]
) -> None:
    about: dict[str, Any] = {
        "checkpoint": Path(runtime.checkpoint.name).name,
        "backend": runtime.backend.name,
        "precision": runtime.precision.name,
        "requests in each fold": options.examples,
        "torch": torch.__version__,
    }
    found = {**about, "moves of eps": moved, "results": [asdict(one) for one in results]}
    write_whole(options.out / "plans.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(options.out / "plans.md", (tables(results) + "\n").encode())
    lines: dict[str, dict[int, float]] = {}
    for one in results:
        lines.setdefault(one.method, {})[one.calls] = one.geometric_mean
    falling_errors(lines, options.out / "plans.png")
    moving_eps(moved, options.out / "moves.png")


def _save(pictures: Sequence[Any], folder: Path, name: str) -> list[Path]:
    files = [folder / f"{name}_{index}.png".replace("/", " ") for index in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        cv2.imwrite(str(file), picture[:, :, ::-1])
    return files


if __name__ == "__main__":
    main()
