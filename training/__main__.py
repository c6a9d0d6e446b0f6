"""python -m training: draws the pictures, trains the small model and writes models/small/model.safetensors.

An interrupted run resumes from --state, the folder of pictures, checkpoints and loss curves. The time budgets in
training/recipe.py are meant for a GPU like the H200; on a CPU, use --smoke to check that training runs.
"""

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray

from cldm.checkpoint import SMALL_MODEL, SMALL_TOKENIZER
from cldm.model import ControlLDM
from commands import one_line
from files import check_writable, locked
from ldm.config import load_architecture
from ldm.tokenizer import load_tokenizer
from ldm.weights import load_strict, save_tensors
from scoring.outputs import check_outputs
from training.corpus import load_corpus
from training.diffusion import DiffusionTraining, Examples, encode_all, start_small
from training.fit import fit
from training.recipe import Recipe
from training.vae import VAETraining, normalize_latents
from weights.read import read_tensors

log = logging.getLogger("training")
SMOKE = {
    "scenes": 12,
    "photographs": 4,
    "vae_minutes": 0.02,
    "vae_batch": 2,
    "half_minutes": 0.02,
    "half_batch": 2,
    "full_minutes": 0.02,
    "full_batch": 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=Path("training_state"))
    parser.add_argument("--out", type=Path, default=SMALL_MODEL)
    parser.add_argument("--start", type=Path, default=None, help="weights file of the small model to start from")
    parser.add_argument("--smoke", action="store_true", help="run a few steps on a few pictures")
    for field in dataclasses.fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=None)
    options = vars(parser.parse_args())
    state, out, start, smoke = (options.pop(name) for name in ("state", "out", "start", "smoke"))
    given = {name: value for name, value in options.items() if value is not None}
    with one_line(stopped=f"run the same command to go on from {state}"):
        check_outputs([out], [start] if start else [])
        check_writable(state)
        with locked(state / ".training.lock", "choose another --state"):
            train(Recipe(**{**(SMOKE if smoke else {}), **given}), state, out, start)


def train(recipe: Recipe, state: Path, out: Path, start: Path | None = None) -> None:
    """Create the corpus, train the autoencoder and the diffusion networks, and write their averaged weights to `out`.

    Training starts from the weights in `start` if given, and resumes an earlier run from `state`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_float32_matmul_precision("high")
    pl.seed_everything(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = load_corpus(state / "corpus", recipe)
    pictures = torch.from_numpy(np.array(corpus.pictures)).to(device)
    model = ControlLDM(load_architecture("small"))
    start_small(model)
    if start is not None:
        load_strict(model, read_tensors(start), str(start))
    model.train().requires_grad_().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    if recipe.vae_minutes:
        vae = VAETraining(model.vae, recipe, pictures)
        fit(vae, state / "vae", recipe.vae_minutes)
        model.vae.load_state_dict(vae.average.state_dict())
        normalize_latents(model.to(device).vae, pictures[:: max(1, len(pictures) // 960)])

    for phase in recipe.phases():
        if phase.minutes:
            edges = {1: corpus.edges, 2: corpus.half_edges}[phase.shrink]
            examples = make_examples(encode_all(model, pictures, phase.shrink), edges, corpus.captions, recipe)
            diffusion = DiffusionTraining(model, recipe, phase, examples)
            fit(diffusion, state / phase.name, phase.minutes)
            diffusion.network.load_state_dict(diffusion.average.state_dict())
    save_tensors(half_precision(model), out)
    log.info("wrote %s (%.1f MiB)", out, out.stat().st_size / 2**20)


def make_examples(latents: torch.Tensor, edges: NDArray[np.uint8], captions: list[str], recipe: Recipe) -> Examples:
    """Return the examples, with all tensors on the device of the latents."""
    tokenizer = load_tokenizer([SMALL_TOKENIZER], load_architecture("small").text.positions)
    unique = sorted(set(captions))  # far fewer than pictures, and tokenizing is slow
    place = {caption: i for i, caption in enumerate(unique)}
    rows = torch.tensor([place[caption] for caption in captions])
    worded = [f"{caption}, {recipe.a_prompt}" for caption in unique]
    return Examples(
        latents,
        torch.from_numpy(np.array(edges)).to(latents.device),
        torch.stack([tokenizer(unique), tokenizer(worded)])[:, rows].to(latents.device),
        tokenizer(["", recipe.n_prompt]).to(latents.device),
    )


def half_precision(model: ControlLDM) -> dict[str, Any]:
    """Return all weights in float16, except the schedule, whose values near 1 need float32."""
    schedule = {name for name, _ in model.named_buffers(recurse=False)}
    return {
        name: tensor.half() if tensor.is_floating_point() and name not in schedule else tensor
        for name, tensor in model.state_dict().items()
    }


if __name__ == "__main__":
    main()
