"""The drop-in class on a CUDA device, in both precisions, compared with the float32 reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from canny2image_TRT import hackathon
from cldm.canny import Picture
from cldm.checkpoint import SMALL_MODEL
from cldm.reference import reference_latent
from cldm.request import Request
from plans.plan import Plan
from plans.probe import Probe
from scoring.pictures import DRAWN_BIRDS, find_pictures
from tests.inside import pipelines_of

pytestmark = pytest.mark.gpu


def request() -> Request:
    picture = find_pictures(DRAWN_BIRDS)["bird_1"]
    return Request.contest(picture, eta=0.7)


def run(precision: str) -> tuple[hackathon, torch.Tensor, list[Picture]]:
    """Evaluate every step; return the runtime, its last latent and its pictures."""
    runtime = hackathon("random:0", plan="all", precision=precision, device="cuda")
    runtime.initialize()
    pictures = runtime.process(**vars(request()))
    return runtime, runtime.latent, pictures


def test_full_precision_equals_the_reference() -> None:
    runtime, x, pictures = run("fp32")
    model = runtime.checkpoint.load_model().cuda()
    expected = reference_latent(model, runtime.checkpoint.load_tokenizer(), request())
    assert (x - expected).abs().max() < 1e-3
    assert pictures[0].shape == (256, 384, 3)


def test_half_precision_is_near_the_reference() -> None:
    """The sampler does not amplify the networks' rounding: after 20 steps the latents differ by less than 1 %."""
    _, expected, full = run("fp32")
    _, x, half = run("fp16")
    assert x.isfinite().all()
    assert (x - expected).norm() / expected.norm() < 0.01
    assert np.abs(half[0].astype(int) - full[0].astype(int)).mean() < 3


def test_probe_graph_gives_the_same_latent_as_process() -> None:
    """Each evaluation of the probe launches one graph, with the results of the pipeline."""
    plan = Plan(20, (19, 12, 4), ((1.0, 0.0), (1.3, -0.3), (0.9, 0.1)))
    asked = replace(request(), eta=0.0)
    runtime = hackathon(str(SMALL_MODEL), plan=plan, precision="fp32", device="cuda")
    runtime.initialize()
    runtime.process(**vars(asked))
    drawing = pipelines_of(runtime)
    probe = Probe(drawing.model, [replace(asked, seed=1), asked], drawing.tokenizer)
    for _ in range(2):
        latents = probe.draw(plan, 20)
        assert (latents[1] - runtime.latent[0]).abs().max() < 1e-3
        assert (latents[0] - latents[1]).abs().max() > 0.1


def test_auto_chooses_the_gpu_in_half_precision() -> None:
    runtime = hackathon("random:0")
    assert (runtime.device.type, runtime.precision.name) == ("cuda", "fp16")


def test_same_seed_same_picture() -> None:
    runtime = hackathon("random:0", device="cuda")
    runtime.initialize()
    first, second = (runtime.process(**vars(request()))[0] for _ in range(2))
    assert np.array_equal(first, second)
