#!/usr/bin/env python3
"""The contest's scoring run: measures latency and perceptual distance (PD), and computes the leaderboard score.

Without FID's Inception weights, the distance is PD* from seeded weights, and there is no leaderboard score.
cldm/reference.py generates base pictures in float32 on this machine; canny2image_TRT.hackathon generates candidates.
Files in the folder --out: candidates <name>.jpg and base pictures base/<name>.jpg (RGB data written as BGR, as in the
contest's script), shown/ (inputs, edges, base pictures and candidates in true colours), score.json, contact_sheet.png
and, with --timeline, timeline.png.
"""

import commands

# isort: split

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch

from canny2image_TRT import hackathon
from cldm.base_pictures import FOLDER as CACHED
from cldm.base_pictures import base_pictures
from cldm.canny import Picture
from cldm.edge_map import check_channels
from cldm.engine_choice import check_backend
from cldm.options import add_options, runtime_arguments
from cldm.progress import Progress
from cldm.request import CONTEST, Request, drawn
from cldm.text_inputs import text_inputs
from files import check_writable, locked
from plans.files import choose_plan, find_plan
from scoring.contact_sheet import contact_sheet
from scoring.inception import find_weights, load_inception
from scoring.outputs import Outputs, check_apart, check_outputs
from scoring.pictures import find_pictures, usual_folder
from scoring.report import Report
from scoring.timeline import timeline_picture


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pictures", type=Path, help="folder of input pictures; default: the contest's, else eight drawn birds")
    add("--edges", action="store_true", help="the pictures are edge maps, white on black; thresholds are ignored")
    add("--out", type=Path, default=Path("score"), help="folder for the results; default: score")
    add("--cache", type=Path, help="folder for base pictures; default: $CANNY2IMAGE_CACHE, else .cache in the project")
    add_options(parser)
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--inception", type=Path, help="file with the weights of FID's Inception network")
    add("--timeline", action="store_true", help="also plot when each stage of a picture runs, in timeline.png")
    for name, value in CONTEST.items():
        if name == "guess_mode":
            add("--guess-mode", action="store_true")
        elif name != "num_samples":
            kind = float if name.endswith("threshold") or name == "strength" else type(value)
            add(f"--{name.replace('_', '-')}", type=kind, default=value)
    return parser.parse_args(arguments)


def make_request(name: str, picture: Picture, options: argparse.Namespace) -> Request:
    said = {name: value for name, value in vars(options).items() if name in CONTEST}
    if not options.edges:
        return Request.contest(picture, **said)
    check_channels(f"--edges: picture {name}", picture)
    return Request.contest(None, edges=picture, **said)


def make_candidates(runtime: hackathon, requests: dict[str, Request]) -> dict[str, tuple[Picture, float]]:
    """Return (picture, milliseconds of its process() call) by name, in the order of `requests`."""
    made = {}
    for name, request in Progress(requests.items(), desc="candidates", unit="picture"):
        begin = time.perf_counter()
        picture = runtime.process(**vars(request))[0]
        made[name] = picture, 1000 * (time.perf_counter() - begin)
    return made


def check(options: argparse.Namespace, runtime: hackathon, request: Request) -> list[Path]:
    """Return all files that are read. Raise ValueError or TypeError for options that would fail later."""
    checkpoint = runtime.checkpoint
    request.check_precision(torch.finfo(runtime.precision.dtype).max)
    if options.plan != "auto":
        choose_plan(options.plan, options.ddim_steps, checkpoint.architecture)
    checkpoint.check()
    checkpoint.patches()
    text_inputs(checkpoint.load_tokenizer(), request.prompts, runtime.syntax)
    if options.backend not in ("auto", "eager"):
        check_backend(options.backend, checkpoint, runtime.precision, runtime.device, runtime.syntax)
    others = find_plan(options.plan, checkpoint.architecture), find_weights(options.inception)
    return [*checkpoint.files, *options.pictures.iterdir(), *(file for file in others if file)]


def run(options: argparse.Namespace) -> Report:
    options.seed = drawn(options.seed)  # one seed for all base pictures and candidates
    options.pictures = options.pictures or usual_folder()
    pictures = find_pictures(options.pictures)
    requests = {name: make_request(name, picture, options) for name, picture in pictures.items()}
    runtime, outputs = make_runtime(options), Outputs(options.out, options.timeline)
    for folder in (options.pictures, usual_folder()):
        check_apart(options.out, folder)
    read = check(options, runtime, next(iter(requests.values())))
    check_writable(options.out)
    check_outputs(outputs.files(requests), read)
    with locked(outputs.lock, "choose another --out"):
        return generate(options, runtime, requests, outputs)


def generate(options: argparse.Namespace, runtime: hackathon, requests: dict[str, Request], outputs: Outputs) -> Report:
    inception = load_inception(options.inception, runtime.device)
    cache = {"cache": options.cache / CACHED} if options.cache else {}
    bases = base_pictures(runtime.checkpoint, requests, runtime.device, runtime.syntax, **cache)
    runtime.initialize()
    candidates = make_candidates(runtime, requests)
    outputs.remove_summaries()
    scores = [
        outputs.score(name, requests[name].source, requests[name].edge_map(), bases[name], *made, inception)
        for name, made in candidates.items()
    ]
    report = Report(scores, inception.metric_name, device_name(runtime.device), settings(runtime, options))
    if options.timeline:
        title = ", ".join([*(report.settings[name] for name in ("backend", "precision")), report.settings["plan"]])
        timeline_picture(runtime.timeline(), f"{title}, {report.device}", options.out / "timeline.png")
    report.save_json(options.out / "score.json")
    contact_sheet(report, options.out / "contact_sheet.png")
    return report


def make_runtime(options: argparse.Namespace) -> hackathon:
    return hackathon(**runtime_arguments(options))


def settings(runtime: hackathon, options: argparse.Namespace) -> dict[str, Any]:
    given = {"vae": options.vae, "loras": options.loras, "embeddings": options.embeddings}
    return {
        "weights": runtime.checkpoint.name.removeprefix(f"{Path(__file__).parent}/"),
        **{name: value for name, value in given.items() if value},
        "architecture": runtime.checkpoint.architecture,
        **runtime.settings,
        "prompt": options.prompt,
        "seed": options.seed,
        "prompt_syntax": str(runtime.syntax),
        **{name: getattr(options, name) for name in CONTEST if name != "num_samples"},
        **({"edges": "the pictures"} if options.edges else {}),
        "torch": torch.__version__,
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def main() -> int:
    commands.start_logging()
    for noisy in ("httpx", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    options = parse_arguments(sys.argv[1:])
    try:
        report = run(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:  # RuntimeError: of the device
        if options.debug:
            raise
        print(f"compute_score.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "compute_score.py: stopped; results are complete only if there is a score.json; the next run uses the base "
            "pictures that are finished",
            file=sys.stderr,
        )
        return commands.STOPPED
    print(report.text())
    names = [file.name for file in Outputs(options.out, options.timeline).summaries]
    print(f"Results in {options.out}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
