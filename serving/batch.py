"""Draws the pictures of many requests on all GPUs of all machines, with Ray Data. A stopped run can be continued.

INPUTS is a folder of pictures, with captions NAME.txt as prompts if there are any, or a list with one JSON object per
line: name (default: the line's number), input_image or edges (paths below the folder of the list), and other arguments
of process(). The options below are the defaults. OUTPUT gets NAME.png (NAME_1.png ... for more samples), which hold
their parameters, and summary.json. The exit status is 1 if a request has failed.
"""

import commands

# isort: split

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cldm.checkpoint import Checkpoint
from cldm.checkpoint_choice import find_checkpoint
from cldm.options import add_options
from cldm.progress import Progress
from cldm.request import CONTEST
from files import check_writable, locked
from plans.files import choose_plan, find_plan
from scoring.outputs import check_apart, check_outputs
from serving.batch_job import Job
from serving.batch_list import read_jobs
from serving.batch_outputs import Outputs, Summary
from serving.batch_ray import cluster, draw_all

log = logging.getLogger(__name__)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("inputs", type=Path, metavar="INPUTS", help="folder of pictures, or list of requests")
    add("output", type=Path, metavar="OUTPUT", help="folder for the results")
    add("--address", help="of a Ray cluster, auto for the one on this machine; default: Ray is started and stopped")
    add("--replicas", type=int, help="number of workers; default: one for each GPU, or one without GPUs")
    add_options(parser, "weights", "vae", "loras", "plan")
    add("--backend", default="auto", choices=("auto", "eager", "inductor", "tensorrt"))
    add("--precision", default="auto", choices=("auto", "fp32", "fp16", "fp8"), help="auto: fp16 on a GPU")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: GPUs if there are any")
    add("--debug", action="store_true", help="show the traceback of an error")
    for name, value in CONTEST.items():
        kind = float if name.endswith("threshold") or name == "strength" else type(value)
        how: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind, "default": value}
        add(f"--{name.replace('_', '-')}", **how)
    options = parser.parse_args(arguments)
    if options.replicas is not None and options.replicas < 1:
        parser.error(f"--replicas: got {options.replicas}, expected 1 or more")
    return options


def runtime_options(options: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the arguments of `hackathon`, with paths that hold in any folder."""
    plan = str(find_plan(options.plan, checkpoint.architecture) or options.plan)
    chosen = {name: getattr(options, name) for name in ("backend", "precision", "device")}
    weights = {"checkpoint": checkpoint.name, "vae": checkpoint.vae, "loras": checkpoint.loras}
    return {**weights, "plan": plan, **chosen}


def means(options: argparse.Namespace, checkpoint: Checkpoint) -> Callable[[int], str]:
    """Return a function: for a number of DDIM steps, the weights, plan and precision of a picture as text."""
    weights = checkpoint.fingerprint()

    @cache
    def text(steps: int) -> str:
        plan = "auto" if options.plan == "auto" else choose_plan(options.plan, steps, checkpoint.architecture)
        return f"{weights} {plan} {options.precision}"

    return text


def run(options: argparse.Namespace) -> Summary:
    checkpoint, outputs = find_checkpoint(options.weights, None, options.vae, options.loras), Outputs(options.output)
    checkpoint.check()
    checkpoint.patches()
    defaults = {name: getattr(options, name) for name in CONTEST}
    jobs = read_jobs(options.inputs, defaults, means(options, checkpoint))
    pictures = {file for job in jobs for file in job.files.values()}
    folders = {one.parent for file in pictures for one in (file, file.resolve())}
    for folder in (*sorted(folders), options.inputs if options.inputs.is_dir() else options.inputs.resolve()):
        check_apart(options.output, folder, "OUTPUT")
    plan = find_plan(options.plan, checkpoint.architecture)
    check_writable(options.output)
    check_outputs([outputs.lock, outputs.summary], [*checkpoint.files, *([plan] if plan else [])], "OUTPUT")
    with locked(outputs.lock, "choose another OUTPUT"):
        return draw(options, jobs, outputs, runtime_options(options, checkpoint))


def draw(options: argparse.Namespace, jobs: list[Job], outputs: Outputs, runtime: dict[str, Any]) -> Summary:
    left = {job.name: job for job in outputs.left(jobs)}
    summary = Summary(skipped=len(jobs) - len(left))
    outputs.summary.unlink(missing_ok=True)
    if left:
        with cluster(options.address):
            begin = time.perf_counter()
            for row in Progress(
                draw_all([*left.values()], runtime, options.replicas), total=len(left), desc="drawing", unit="request"
            ):
                finish(left[row["name"]], row, outputs, summary)
                summary.seconds = time.perf_counter() - begin
    outputs.write_summary(summary)
    return summary


def finish(job: Job, row: dict[str, Any], outputs: Outputs, summary: Summary) -> None:
    if row["error"]:
        log.error("%s: %s failed: %s", job.place, job.name, row["error"])
        summary.failed[job.name] = row["error"]
        return
    outputs.write(job, row["pictures"])
    summary.done += 1
    summary.pictures += job.samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return 0, or 1 if a request has failed; exit with 1 and one line for an error."""
    options = parse_arguments(arguments)
    commands.start_logging()
    with commands.one_line(options.debug, f"finished pictures are in {options.output}; run the same command to go on"):
        summary = run(options)
    print(f"Results in {options.output}: {summary}")
    return 1 if summary.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
