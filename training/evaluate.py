"""python -m training.evaluate: measures the small model on held-out scenes, and writes JSON and a contact sheet.

Edges: F1 of the input's and the output's canny edges, with a tolerance of 3 pixels, at strength 1 and 0.
Words: how often the mean colour inside the object's mask is nearest to the requested one of six colours.
VAE: PSNR of reconstructions.
Plans: distance between the pictures of evenly spaced plans and the picture of all twenty steps.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.request import Request
from commands import one_line
from files import write_whole
from scoring.outputs import check_outputs
from training.recipe import Recipe
from training.scenes.palette import PALETTE, nearest_colour
from training.scenes.scene import Scene, caption_with_colour, scene
from training.vae import as_input

Picture = NDArray[np.uint8]
SHEET, JSON = "words.png", "evaluation.json"
TOLERANCE = 3.0  # pixels
PLANS = (5, 8, 10, 15)  # evaluations, evenly spaced over the 20 steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=SMALL_MODEL)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--scenes", type=int, default=32, help="scenes for edges and VAE; words and plans use a third")
    parser.add_argument("--out", type=Path, default=Path("score"))
    options = parser.parse_args()
    with one_line():
        check_outputs([options.out / SHEET, options.out / JSON], [options.weights])
        evaluate(options)


def evaluate(options: argparse.Namespace) -> None:
    """Measure everything, write the files to --out, and print the JSON."""
    runtime = hackathon(
        str(options.weights), architecture="small", plan="all", device=options.device, precision=options.precision
    )
    runtime.initialize()
    first = Recipe().held_out
    scenes = [scene(first + i) for i in range(options.scenes)]
    some = scenes[: math.ceil(len(scenes) / 3)]
    words, sheet = measure_words(runtime, some)
    write_whole(options.out / SHEET, cv2.imencode(".png", sheet[:, :, ::-1])[1].tobytes())
    found = {
        "edges": measure_edges(runtime, scenes),
        "words": words,
        "vae_psnr_db": measure_vae(runtime, scenes),
        "plans": measure_plans(runtime, some),
    }
    text = json.dumps(found, indent=2)
    write_whole(options.out / JSON, f"{text}\n".encode())
    print(text)


def spaced_plan(evaluations: int) -> str:
    """Return the plan with this many evaluations as text: steps from 19 down, as evenly spaced as possible."""
    return ",".join(str(20 - 1 - (20 * k) // evaluations) for k in range(evaluations))


def draw(runtime: hackathon, picture: Picture, prompt: str, strength: float = 1.0, plan: str = "all") -> Picture:
    """Generate one picture, with the contest's values for all other arguments."""
    recipe = Recipe()
    request = Request.contest(
        picture, prompt=prompt, a_prompt=recipe.a_prompt, n_prompt=recipe.n_prompt, strength=strength
    )
    return runtime.draw(request, plan)[0]


def edge_f1(given: Picture, found: Picture, tolerance: float = TOLERANCE) -> float:
    """Return the F1 score of two edge pictures [h, w], which are non-zero on edges; 0 if one has no edges.

    An edge pixel is correct if the other picture has an edge pixel within `tolerance` pixels.
    """
    if not given.any() or not found.any():
        return 0.0
    to_given, to_found = (
        cv2.distanceTransform(np.where(e > 0, 0, 255).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for e in (given, found)
    )
    precision = float((to_given[found > 0] <= tolerance).mean())
    recall = float((to_found[given > 0] <= tolerance).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def measure_edges(runtime: hackathon, scenes: Sequence[Scene]) -> dict[str, float]:
    """Return the mean F1 of input and output edges, at strength 1 and 0."""
    scores: dict[str, float] = {}
    for strength in (1.0, 0.0):
        values = []
        for made in tqdm(scenes, desc=f"edges, strength {strength:.0f}"):
            drawn = draw(runtime, made.picture, made.caption, strength)
            values.append(edge_f1(canny(made.picture), canny(drawn)))
        scores[f"f1_strength_{strength:.0f}"] = fmean(values)
    return scores


def measure_words(runtime: hackathon, scenes: Sequence[Scene]) -> tuple[dict[str, Any], Picture]:
    """Return the share of pictures in the requested colour, overall and by colour, and a sheet: one row per scene."""
    right: dict[str, list[bool]] = {colour: [] for colour in PALETTE}
    rows = []
    for made in tqdm(scenes, desc="words"):
        row = [np.repeat(canny(made.picture)[:, :, None], 3, axis=2)]
        for colour in PALETTE:
            drawn = draw(runtime, made.picture, caption_with_colour(made, colour))
            right[colour].append(nearest_colour(drawn[made.mask].mean(axis=0)) == colour)
            row.append(drawn)
        rows.append(np.concatenate([cv2.resize(p, (192, 128), interpolation=cv2.INTER_AREA) for p in row], axis=1))
    share = fmean(hit for hits in right.values() for hit in hits)
    by_colour = {colour: fmean(hits) for colour, hits in right.items()}
    return {"right": share, "by_colour": by_colour, "pictures": len(scenes) * len(PALETTE)}, np.concatenate(rows)


@torch.inference_mode()
def measure_vae(runtime: hackathon, scenes: Sequence[Scene]) -> float:
    """Return the mean PSNR in dB between scenes and their reconstructions by the autoencoder."""
    vae, values = runtime.checkpoint.load_model(runtime.device).vae, []
    weight = next(vae.parameters())
    for made in scenes:
        picture = as_input(torch.from_numpy(made.picture)[None]).to(weight)
        error = (vae.decode(vae.encode(picture)).clamp(-1, 1) - picture).float().square().mean()
        values.append(float(10 * torch.log10(4 / error)))  # the values range over 2, from -1 to 1
    return fmean(values)


def measure_plans(runtime: hackathon, scenes: Sequence[Scene]) -> dict[str, float]:
    """Return, per plan in PLANS, the mean distance of its pictures from those of all steps.

    A distance is the root mean square difference in grey levels.
    """
    distances: dict[int, list[float]] = {count: [] for count in PLANS}
    for made in tqdm(scenes, desc="plans"):
        whole = draw(runtime, made.picture, made.caption).astype(float)
        for count, values in distances.items():
            fewer = draw(runtime, made.picture, made.caption, plan=spaced_plan(count))
            values.append(float(np.sqrt(np.mean((fewer - whole) ** 2))))
    return {f"{count} evaluations": fmean(values) for count, values in distances.items()}


def canny(picture: Picture) -> Picture:
    return np.asarray(cv2.Canny(picture, 100, 200), np.uint8)


if __name__ == "__main__":
    main()
