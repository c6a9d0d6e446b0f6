"""Loads the network that plans are made for, and makes the folds of requests for fitting, choosing and reporting."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from cldm.checkpoint_choice import find_checkpoint
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.request import Request
from ldm.diffusion import ddim_timesteps
from plans.plan import STEPS, Plan, make_plan
from plans.probe import Probe
from plans.requests import make_requests
from plans.routes import END, Examples, Schedule, distances, make_schedule
from runtime.backends import choose_device, choose_precision
from scoring.compare import Judge
from scoring.inception import load_inception

WHOLE = make_plan("all", STEPS)


@dataclass(frozen=True)
class Measured:
    """Distances of one plan's results from those of all steps, one value per reported request."""

    latent: list[float]  # root mean square difference from the latent of all steps in the same precision
    pd: list[float]  # from the float32 picture, for the first `drawn` requests; PD* without the real Inception weights
    ssim: list[float]  # with the same pictures as `pd`


class Folds:
    """The network and the requests that the options of `add_arguments` select.

    The model is loaded, and results are computed, at first use. Raise ValueError or OSError for unusable options.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.checkpoint = find_checkpoint(options.checkpoint, options.architecture)
        self.device = choose_device(options.device)
        self.precision = choose_precision(options.precision, self.device)
        if self.precision.fp8:
            raise ValueError("precision 'fp8': expected fp32 or fp16; plans found with these also work with fp8")
        self.inception = load_inception(device=self.device)
        self.tokenizer = self.checkpoint.load_tokenizer()
        self.drawn = options.drawn
        counts = {"calibration": options.fitted, "selection": options.judged, "report": options.reported}
        self.requests = {fold: make_requests(fold, count, options.pictures) for fold, count in counts.items()}

    @cached_property
    def model(self) -> ControlLDM:
        return self._model(self.precision.dtype)

    @cached_property
    def schedule(self) -> Schedule:
        return make_schedule(self.report.abar, STEPS)

    @cached_property
    def examples(self) -> Examples:
        """The calibration fold, on which taps are fitted, then the selection fold, on which plans are judged."""
        asked = [*self.requests["calibration"], *self.requests["selection"]]
        return make_examples(self.probe(asked), self.schedule, len(self.requests["calibration"]))

    @cached_property
    def report(self) -> Probe:
        return self.probe(self.requests["report"])

    @cached_property
    def whole(self) -> Tensor:
        """The final latents of the reported requests, with every step evaluated."""
        return self.report.draw(WHOLE, STEPS)

    @cached_property
    def judge(self) -> Judge:
        """Compares pictures with the float32 pictures of the first `drawn` reported requests."""
        if self.precision.dtype == torch.float32:
            return Judge(self.report.pictures(self.whole[: self.drawn]), self.inception)
        exact = Probe(self._model(torch.float32), self.requests["report"][: self.drawn], self.tokenizer)
        return Judge(exact.pictures(exact.draw(WHOLE, STEPS)), self.inception)

    def probe(self, requests: Sequence[Request]) -> Probe:
        return Probe(self.model, requests, self.tokenizer)

    def measure(self, plan: Plan) -> Measured:
        return self.compare(self.report.draw(plan, STEPS))

    def compare(self, latents: Tensor) -> Measured:
        """Return the distances of `latents`, final latents of the reported requests by any method."""
        apart = distances(latents, self.whole)
        return Measured(apart, *self.judge(self.report.pictures(latents[: self.drawn])))

    def _model(self, dtype: torch.dtype) -> ControlLDM:
        return make_fast(self.checkpoint.load_model(self.device), dtype)


def make_examples(probe: Probe, schedule: Schedule, fitted: int) -> Examples:
    """Evaluate every step, and return the probe's network with the latents before each step and after the last.

    fitted: the number of requests, from the first, that taps are fitted on.
    """
    timesteps = ddim_timesteps(STEPS)

    def network(x: Tensor, index: int) -> Tensor:
        return probe(x, timesteps[index])

    x = probe.starts
    whole = {STEPS - 1: x}
    for index in tqdm(range(STEPS - 1, END, -1), desc="every step", unit="step"):
        a, w = schedule(index, index - 1)
        x = whole[index - 1] = a * x + w * network(x, index)
    return Examples(network, whole, fitted)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--fitted", type=_positive, default=6, help="number of requests for fitting taps (default 6)")
    add("--judged", type=_positive, default=12, help="number of other requests for choosing steps; more requests make "
        "the choice less random (default 12)")  # fmt: skip
    add("--reported", type=_positive, default=6, help="number of further requests for the reported results (default 6)")
    add("--drawn", type=_positive, help="how many of the reported requests are also compared as pictures; default: all")
    add("--pictures", type=Path, help="folder of pictures of one size, either all or none with a caption in "
        "NAME.txt; default: the contest's pictures, else eight drawn birds")  # fmt: skip
    add("--weights", "--checkpoint", dest="checkpoint", help="weights; default: see README.md")
    add("--architecture", help="NAME of a file models/NAME.yaml; default: the checkpoint's")
    add("--precision", default="auto", help="auto, fp32 or fp16")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--debug", action="store_true", help="show the traceback of an error")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return number
