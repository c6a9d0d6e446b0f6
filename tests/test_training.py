"""Tests the parts of training in which a wrong sign would not be noticed, and a run of a few seconds."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="needs the optional dependencies `train`")
from cldm.checkpoint import Checkpoint
from ldm.config import load_architecture
from ldm.vae import VAE
from training.corpus import load_corpus
from training.evaluate import edge_f1, spaced_plan
from training.fit import average_momentum
from training.recipe import Recipe
from training.vae import as_input, normalize_latents

ROOT = Path(__file__).resolve().parent.parent


def test_normalized_latents_keep_the_reconstruction() -> None:
    torch.manual_seed(0)
    vae = VAE(load_architecture("small").vae).eval().requires_grad_(False)
    pictures = torch.randint(256, (4, 64, 96, 3), dtype=torch.uint8)
    before = vae.decode(vae.encode(as_input(pictures)))
    _, spread = vae.moments(as_input(pictures))
    normalize_latents(vae, pictures)
    latents = vae.encode(as_input(pictures))
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(vae.decode(latents), before, atol=1e-4, rtol=0)
    scaled = vae.moments(as_input(pictures))[1] - spread  # the log variances are scaled with the latents
    torch.testing.assert_close(scaled, scaled.mean((0, 2, 3), keepdim=True).expand_as(scaled), atol=1e-4, rtol=0)


def test_moving_average_forgets_the_start() -> None:
    average = 100.0
    for step in range(200):
        momentum = average_momentum(step, 0.999)
        average = momentum * average + (1 - momentum) * 1.0
    assert average == pytest.approx(1.0, abs=0.01)
    assert average_momentum(10**6, 0.999) == 0.999


def test_edge_f1() -> None:
    line, near, far = (np.zeros((32, 32), np.uint8) for _ in range(3))
    line[:, 10], near[:, 13], far[:, 14] = 255, 255, 255
    assert edge_f1(line, line) == 1.0
    assert edge_f1(line, near) == 1.0, "a distance of three pixels is within the tolerance"
    assert edge_f1(line, far) == 0.0
    assert edge_f1(line, np.maximum(line, far)) == pytest.approx(2 / 3), "precision is 1/2 and recall is 1"
    assert edge_f1(line, np.zeros_like(line)) == 0.0


def test_spaced_plans_are_even() -> None:
    assert spaced_plan(5) == "19,15,11,7,3"
    assert spaced_plan(20) == ",".join(map(str, range(19, -1, -1)))


RUNS = """
import shutil, sys
from training.__main__ import main

NOTHING = "--vae-minutes 0 --half-minutes 0 --full-minutes 0".split()
runs = ("state", "first"), ("state", "again"), ("other", "begun", "--start", "first.safetensors", *NOTHING)
for state, out, *more in runs:
    if state == "other":  # the pictures are those of the first run: creating them again would take seconds
        shutil.copytree("state/corpus", "other/corpus")
    few = "--scenes 3 --photographs 1".split()
    sys.argv = ["training", "--smoke", *few, "--state", state, "--out", out + ".safetensors", *more]
    main()
"""


def test_a_run_of_seconds_goes_on_and_loads(tmp_path: Path) -> None:
    """Three runs in a separate process, because training changes PyTorch's global state."""
    subprocess.run([sys.executable, "-c", RUNS], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    first, again, begun = (tmp_path / f"{name}.safetensors" for name in ("first", "again", "begun"))
    assert first.stat().st_size <= 20 * 2**20
    model = Checkpoint(str(first), "small", "given").load_model()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.alphas_cumprod[0] == pytest.approx(0.99915, abs=1e-6), "the schedule was rounded to half precision"
    made = (tmp_path / "state" / "corpus" / "pictures.npy").stat().st_mtime_ns
    assert made < first.stat().st_mtime_ns, "the pictures were created again"
    assert again.read_bytes() == first.read_bytes(), "a finished run was trained further"
    assert begun.read_bytes() == first.read_bytes(), "the weights given by --start changed without training"


def test_corpus_of_another_recipe_is_made_anew(tmp_path: Path) -> None:
    first = load_corpus(tmp_path, Recipe(scenes=2, photographs=1))
    assert first.pictures.shape == (3, 256, 384, 3)
    assert set(np.unique(first.edges)) == {0, 255}
    assert len(load_corpus(tmp_path, Recipe(scenes=1, photographs=1)).captions) == 2
