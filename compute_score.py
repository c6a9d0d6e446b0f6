#!/usr/bin/env python3
"""The contest's scoring run: measures latency and perceptual distance (PD), and computes the leaderboard score.

Without FID's Inception weights, the distance is PD* from seeded weights, and there is no leaderboard score.
cldm/reference.py generates base pictures in float32 on this machine; canny2image_TRT.hackathon generates candidates.
Files in the folder --out: candidates <name>.jpg and base pictures base/<name>.jpg (RGB data written as BGR, as in the
contest's script), shown/ (inputs, edges, base pictures and candidates in true colours), score.json, contact_sheet.png
and, with --timeline, timeline.png.
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

from canny2image_TRT import hackathon
from cldm.base_pictures import base_pictures
from cldm.canny import Picture
from cldm.edge_map import check_channels
from cldm.request import CONTEST, Request, drawn
from files import check_writable, write_whole
from scoring.contact_sheet import contact_sheet
from scoring.distance import perceptual_distance, psnr, ssim
from scoring.inception import Inception, load_inception
from scoring.pictures import find_pictures
from scoring.report import PictureScore, Report
from scoring.timeline import timeline_picture
from weights.loras import parse_lora


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pictures", type=Path, help="folder of input pictures; default: the contest's, else eight drawn birds")
    add("--edges", action="store_true", help="the pictures are edge maps, white on black; thresholds are ignored")
    add("--out", type=Path, default=Path("score"), help="folder for the results; default: score")
    add("--weights", "--checkpoint", help="BASE, BASE:CONTROL (files or folders) or random:SEED; default: see README")
    add("--vae", help="file or folder with another VAE")
    add(
        "--lora",
        type=parse_lora,
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="merge this LoRA; repeat",
    )
    add("--embedding", action="append", default=[], metavar="FILE", help="textual-inversion embedding; repeat")
    add("--architecture", help="name of a file in models/*.yaml; default: the one for the weights")
    add("--backend", default="auto", help="auto (the fastest with engine files), eager, inductor or tensorrt")
    add("--plan", default="ten", help="ten, all, step indices, a plan file or its name, or auto (best on this machine)")
    add("--max-pd", type=float, help="with --plan auto: use the fastest plan file whose mean PD is at most this")
    add("--precision", default="auto", help="auto (fp16 on a GPU), fp32 or fp16")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N")
    add("--strict", action="store_true", help="fail instead of warning and falling back")
    add("--prompt-syntax", default="plain", help="plain or webui, for the base pictures too")
    add("--prompt-chunks", type=int, default=1, help="with webui: chunks of 75 tokens per prompt, 1 to 8")
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
    for name, request in tqdm(requests.items(), desc="candidates", unit="picture"):
        begin = time.perf_counter()
        picture = runtime.process(**vars(request))[0]
        made[name] = picture, 1000 * (time.perf_counter() - begin)
    return made


def save_picture(path: Path, picture: Picture) -> Path:
    """Write a picture [h, w] or [h, w, 3], with channels in OpenCV's order (BGR), and return `path`."""
    write_whole(path, cv2.imencode(path.suffix, picture)[1].tobytes())
    return path


def run(options: argparse.Namespace) -> Report:
    options.seed = drawn(options.seed)  # one seed for all base pictures and candidates
    pictures = find_pictures(options.pictures)
    requests = {name: make_request(name, picture, options) for name, picture in pictures.items()}
    check_writable(options.out)  # fail now, not after generating the pictures
    runtime = make_runtime(options)
    inception = load_inception(options.inception, runtime.device)
    bases = base_pictures(runtime.checkpoint, requests, runtime.device, runtime.syntax)
    runtime.initialize()
    scores = [
        score(name, requests[name], bases[name], *made, options.out, inception)
        for name, made in make_candidates(runtime, requests).items()
    ]
    report = Report(scores, inception.metric_name, device_name(runtime.device), settings(runtime, options))
    if options.timeline:
        title = ", ".join([*(report.settings[name] for name in ("backend", "precision")), report.settings["plan"]])
        timeline_picture(runtime.timeline(), f"{title}, {report.device}", options.out / "timeline.png")
    report.save_json(options.out / "score.json")
    contact_sheet(report, options.out / "contact_sheet.png")
    return report


def make_runtime(options: argparse.Namespace) -> hackathon:
    return hackathon(
        options.weights,
        architecture=options.architecture,
        backend=options.backend,
        plan=options.plan,
        max_pd=options.max_pd,
        precision=options.precision,
        device=options.device,
        strict=options.strict,
        vae=options.vae,
        loras=options.lora,
        prompt_syntax=options.prompt_syntax,
        prompt_chunks=options.prompt_chunks,
        embeddings=options.embedding,
    )


def score(
    name: str, request: Request, base: Picture, candidate: Picture, milliseconds: float, out: Path, inception: Inception
) -> PictureScore:
    """Save input, edges, base and candidate, and compare base with candidate, both RGB, as JPEG files."""
    base_file = save_picture(out / "base" / f"{name}.jpg", base)
    file = save_picture(out / f"{name}.jpg", candidate)
    shown = out / "shown"
    return PictureScore(
        name=name,
        pd=perceptual_distance(base_file, file, inception),
        ssim=ssim(base_file, file),
        psnr=psnr(base_file, file),
        latency_ms=milliseconds,
        input_path=save_picture(shown / f"{name}_input.png", request.source),
        canny_path=save_picture(shown / f"{name}_canny.png", request.edge_map()),
        base_path=save_picture(shown / f"{name}_base.png", base[:, :, ::-1]),
        candidate_path=save_picture(shown / f"{name}_candidate.png", candidate[:, :, ::-1]),
    )


def settings(runtime: hackathon, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "weights": runtime.checkpoint.name.removeprefix(f"{Path(__file__).parent}/"),
        **({"vae": options.vae} if options.vae else {}),
        **({"loras": options.lora} if options.lora else {}),
        **({"embeddings": options.embedding} if options.embedding else {}),
        "architecture": runtime.checkpoint.architecture,
        **runtime.settings,
        "ddim_steps": options.ddim_steps,
        "prompt": options.prompt,
        "prompt_syntax": str(runtime.syntax),
        "seed": options.seed,
        **({"edges": "the pictures"} if options.edges else {}),
        "torch": torch.__version__,
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    options = parse_arguments(sys.argv[1:])
    try:
        report = run(options)
    except (ValueError, TypeError, OSError, torch.OutOfMemoryError) as error:
        if options.debug:
            raise
        print(f"compute_score.py: {error}", file=sys.stderr)
        return 2
    print(report.text())
    names = ["score.json", "contact_sheet.png", *(["timeline.png"] if options.timeline else [])]
    print(f"Results in {options.out}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
