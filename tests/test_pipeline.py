"""The fast pipeline generates the same pictures as the reference, for all arguments."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cldm.canny import Picture
from cldm.checkpoint import SMALL_MODEL, Checkpoint
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.noise import draw_noise
from cldm.pipeline import Pipeline, Shape
from cldm.reference import reference_latent, reference_pixels
from cldm.request import Request
from cldm.stages import to_uint8
from cldm.tricks.time_table import time_table
from ldm.config import load_architecture
from ldm.tokenizer import Tokenizer
from plans.plan import Plan, evaluations, make_plan
from plans.probe import Probe
from runtime.eager import EagerEngine
from runtime.streams import Streams
from scoring.pictures import DRAWN_BIRDS, find_pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loaded() -> tuple[ControlLDM, Tokenizer]:
    checkpoint = Checkpoint(str(SMALL_MODEL), "small", "given")
    return checkpoint.load_model(), checkpoint.load_tokenizer()


@pytest.fixture(scope="module")
def picture() -> Picture:
    return find_pictures(DRAWN_BIRDS)["bird_1"]


def request(picture: Picture, **changes: Any) -> Request:
    return Request.contest(picture, **{"image_resolution": 128} | changes)


def fast(model: ControlLDM) -> ControlLDM:
    """Return a copy with all tricks applied; the reference runs the model itself, which stays unchanged."""
    return make_fast(copy.deepcopy(model), torch.float32)


def make_pipeline(model: ControlLDM, asked: Request, plan: str | Plan) -> Pipeline:
    made = make_plan(plan, asked.ddim_steps) if isinstance(plan, str) else plan
    return Pipeline(
        fast(model), Shape(*asked.size, asked.num_samples, asked.ddim_steps, made), EagerEngine, Streams(CPU)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"image_resolution": 256, "ddim_steps": 4},
        {"guess_mode": True, "ddim_steps": 4},
        {"strength": 0.5, "ddim_steps": 4},
        {"eta": 0.7},
        {"num_samples": 2, "eta": 0.7, "guess_mode": True, "ddim_steps": 4},
        {"image_resolution": 512, "picture": find_pictures(DRAWN_BIRDS)["bird_1"][:, :256], "ddim_steps": 2},
        {"scale": 1.0, "seed": 0, "ddim_steps": 12},
    ],
    ids=lambda changes: ",".join(f"{name}={changes[name]}" for name in changes if name != "picture"),
)
def test_all_steps_equal_the_reference(
    loaded: tuple[ControlLDM, Tokenizer], picture: Picture, changes: dict[str, Any]
) -> None:
    model, tokenizer = loaded
    asked = request(**{"picture": picture} | changes)
    expected = reference_latent(model, tokenizer, asked)
    pipeline = make_pipeline(model, asked, "all")
    pictures = pipeline([asked], tokenizer)
    assert (pipeline.buffers["x"] - expected).abs().max() < 1e-3
    assert grey_levels_apart(pictures, list(to_uint8(reference_pixels(model, expected)).numpy())) > 0.999


def test_control_and_prompt_matter(loaded: tuple[ControlLDM, Tokenizer], picture: Picture) -> None:
    """A comparison with the reference tests an argument only if the argument changes the latent."""
    model, tokenizer = loaded
    base = request(picture, image_resolution=64, ddim_steps=2)
    pipeline = make_pipeline(model, base, "all")
    pipeline([base], tokenizer)
    x = pipeline.buffers["x"].clone()
    for changes in ({"strength": 0.5}, {"prompt": "a fish"}, {"guess_mode": True}, {"n_prompt": ""}, {"eta": 0.5}):
        pipeline([request(picture, image_resolution=64, ddim_steps=2, **changes)], tokenizer)
        assert (pipeline.buffers["x"] - x).abs().max() > 1e-3, changes


def test_skipped_steps_hold_eps(loaded: tuple[ControlLDM, Tokenizer], picture: Picture) -> None:
    """Compare plan "ten" with a loop of 20 updates that reuses the last eps on skipped steps."""
    model, tokenizer = loaded
    asked = request(picture, eta=0.3)
    pipeline = make_pipeline(model, asked, "ten")
    pipeline([asked], tokenizer)
    drawn = pipeline.buffers["x"].clone()
    pipeline.write([asked], tokenizer)  # reset to the same noise and text
    for name in ("text", "hint"):
        pipeline.engines[name].enqueue(None)
    one_by_one = evaluations(make_plan("all", 20), pipeline.abar, 20, asked.eta)
    shifts = time_table(pipeline.model, [step.timestep for step in one_by_one])
    noise = torch.zeros(20, *drawn.shape)
    x = pipeline.buffers["x"]
    draw_noise(asked.seed, one_by_one, x, noise)
    guided = torch.zeros_like(x)
    for index, step in zip(reversed(range(20)), one_by_one, strict=True):
        if index in pipeline.shape.plan.evaluated:
            pipeline.buffers["shift"].copy_(shifts[19 - index])
            for name in ("control", "encoder", "decoder"):
                pipeline.engines[name].enqueue(None)
            with_prompt, without = pipeline.buffers["eps"].chunk(2)
            guided = without + 9 * (with_prompt - without)
        x.copy_(step.a * x + step.weights[0] * guided + noise[19 - index])
    torch.testing.assert_close(drawn, x, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("architecture", "samples"), [("small", 2), ("sd15", 1)])
def test_run_can_be_captured(architecture: str, samples: int, nothing_from_the_host: TorchDispatchMode) -> None:
    """Capture requires that a run uses no host tensors and reads no values back; this checks it without a GPU."""
    meta = torch.device("meta")
    with meta:
        model = make_fast(ControlLDM(load_architecture(architecture)), torch.float16)
    model.alphas_cumprod = torch.linspace(0.99, 0.01, 1000)
    pipeline = Pipeline(model, Shape(256, 384, samples, 20, make_plan("19,9", 20)), EagerEngine, Streams(meta))
    # On a GPU, these are in pinned host memory.
    pipeline.pictures, pipeline.largest = pipeline.pictures.to(meta), pipeline.largest.to(meta)
    pipeline.inputs.written = {name: buffer.to(meta) for name, buffer in pipeline.inputs.written.items()}
    with nothing_from_the_host:
        pipeline.run()


class Known:
    """An engine that writes one of the given eps at each call, in order."""

    def __init__(self, eps: Tensor, values: Tensor) -> None:
        self.eps, self.values = eps, iter(values)

    def bind(self, buffers: object) -> None: ...

    def enqueue(self, stream: object) -> None:
        self.eps.copy_(next(self.values))


def test_weights_on_earlier_eps(loaded: tuple[ControlLDM, Tokenizer], picture: Picture) -> None:
    """An update with two weights mixes the guided eps of this evaluation and of the previous one, if any."""
    model, tokenizer = loaded
    asked = request(picture, image_resolution=64)
    pipeline = make_pipeline(model, asked, Plan(20, (19, 10, 4), ((1.0, 0.0),) * 3))
    pipeline.write([asked], tokenizer)
    start = pipeline.start
    values = torch.randn(3, *pipeline.buffers["eps"].shape, generator=torch.Generator().manual_seed(0))
    pipeline.engines["decoder"] = Known(pipeline.buffers["eps"], values)  # type: ignore[assignment]
    updates = torch.tensor([[0.9, 1, 0.1, 5.0], [0.8, 1, 0.2, -0.3], [0.7, 1, 0.4, 0.6]])
    pipeline.inputs.written["updates"].copy_(updates[..., None])
    pipeline.noise.fill_(0.01)
    pipeline.run()
    first, second, third = (without + 9 * (prompt - without) for prompt, without in (v.chunk(2) for v in values))
    x = 0.9 * start + 0.1 * first + 0.01
    x = 0.8 * x + 0.2 * second - 0.3 * first + 0.01
    x = 0.7 * x + 0.4 * third + 0.6 * second + 0.01
    torch.testing.assert_close(pipeline.buffers["x"], x, rtol=1e-5, atol=1e-4)


class Operations(TorchDispatchMode):
    """Counts PyTorch operations, except views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_taps_add_no_operations(loaded: tuple[ControlLDM, Tokenizer], picture: Picture) -> None:
    """A run with three taps has as many operations as one that holds eps, with the same evaluations."""
    model, tokenizer = loaded
    asked = request(picture, image_resolution=64)
    taps = ((1.0, 0.0, 0.0), (1.2, -0.2, 0.0), (1.5, -0.6, 0.1))
    counts = []
    for plan in (Plan(20, (19, 12, 4)), Plan(20, (19, 12, 4), taps)):
        pipeline = make_pipeline(model, asked, plan)
        pipeline.write([asked], tokenizer)
        with torch.inference_mode(), Operations() as operations:
            pipeline.run()
        counts.append(operations.count)
    assert counts[0] == counts[1] > 100


def test_probe_gives_the_same_pictures_as_the_pipeline(loaded: tuple[ControlLDM, Tokenizer], picture: Picture) -> None:
    """A batch of two requests gives the same latents as the pipeline run for each request."""
    model, tokenizer = loaded
    asked = [
        request(picture, image_resolution=64),
        request(picture, image_resolution=64, seed=3, prompt="a blue fish", scale=5.0),
    ]
    taps = ((1.0, 0.0), (1.3, -0.3), (0.9, 0.1))
    plan = Plan(20, (19, 12, 4), taps)
    probe = Probe(fast(model), asked, tokenizer)
    latents = probe.draw(plan, 20)
    pipeline = make_pipeline(model, asked[0], plan)
    for one, latent, drawn in zip(asked, latents, probe.pictures(latents), strict=True):
        (picture_,) = pipeline([one], tokenizer)
        torch.testing.assert_close(pipeline.buffers["x"][0], latent, rtol=0, atol=1e-3)
        assert grey_levels_apart([picture_], [drawn]) > 0.999


def test_probe_rejects_requests_of_different_shapes(loaded: tuple[ControlLDM, Tokenizer], picture: Picture) -> None:
    model, tokenizer = loaded
    for change in ({"image_resolution": 128}, {"num_samples": 2}):
        asked = [request(picture, image_resolution=64), request(picture, **{"image_resolution": 64} | change)]
        with pytest.raises(ValueError, match="expected num_samples 1 and the same size"):
            Probe(fast(model), asked, tokenizer)


def test_noise_equals_that_of_the_seeded_global_generator() -> None:
    steps = evaluations(make_plan("all", 20), np.linspace(0.99, 0.01, 1000), 20, 0.7)
    x, noise = torch.empty(1, 4, 8, 8), torch.empty(20, 1, 4, 8, 8)
    state = torch.random.get_rng_state()
    draw_noise(7, steps, x, noise)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator's state changed"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        assert torch.equal(x, torch.randn(x.shape))
        for total, step in zip(noise, steps, strict=True):
            torch.testing.assert_close(total, step.noise[0] * torch.randn(x.shape))


def test_precision_keeps_time_layers_in_float32() -> None:
    model = make_fast(Checkpoint("random:0", "small", "given").load_model(), torch.float16)
    kept = {name.split(".")[0] for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert kept == {"model", "control_model"}
    assert model.alphas_cumprod.dtype == torch.float32
    full = make_fast(Checkpoint("random:0", "small", "given").load_model(), torch.float32)
    assert torch.equal(time_table(model, [1, 951]), time_table(full, [1, 951]))


def grey_levels_apart(ours: list[Picture], theirs: list[Picture]) -> float:
    """Return the share of values that differ by at most one grey level."""
    apart = np.abs(np.stack(ours).astype(int) - np.stack(theirs).astype(int))
    return float((apart <= 1).mean())
