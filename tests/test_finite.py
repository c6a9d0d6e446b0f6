"""NaN and infinity never become a picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import compute_score
from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL, Checkpoint
from cldm.reference import reference_pictures
from cldm.request import Request
from tests.arguments import GOOD, process
from tests.inside import pipelines_of

VAE, UNET = "first_stage_model.decoder.conv_out.bias", "model.diffusion_model.out.2.bias"


@contextmanager
def broken(weight: torch.Tensor, value: float) -> Iterator[None]:
    before = weight[0].clone()
    weight[0] = value
    try:
        yield
    finally:
        weight[0] = before


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("name", "what"), [(VAE, "picture"), (UNET, "latent")])
def test_one_bad_weight(runtime: hackathon, name: str, what: str, value: float) -> None:
    before = process(runtime)[0]
    sentence = rf"^the {what} has values up to (nan|inf), expected at most 65504: scale 9, strength 1 or these"
    weight = pipelines_of(runtime).model.get_parameter(name).data
    with broken(weight, value), pytest.raises(ValueError, match=sentence):
        process(runtime)
    assert np.array_equal(process(runtime)[0], before)


@pytest.mark.parametrize("scale", [1e8, 1e30, -3e38])
def test_a_scale_that_overflows(runtime: hackathon, scale: float) -> None:
    before = process(runtime)[0]
    with pytest.raises(ValueError, match=r"^the latent has values up to .* scale (1e|-3e).* use a smaller scale"):
        process(runtime, scale=scale, num_samples=2)
    assert np.array_equal(process(runtime)[0], before)


def test_the_reference() -> None:
    checkpoint = Checkpoint("random:0", "small", "given")
    model, request = checkpoint.load_model(), Request(**{**GOOD, "ddim_steps": 1})
    for name, what in ((VAE, "picture"), (UNET, "latent")):
        sentence = f"the {what} has values up to nan"
        with broken(model.get_parameter(name).data, torch.nan), pytest.raises(ValueError, match=sentence):
            reference_pictures(model, checkpoint.load_tokenizer(), request)


def test_weights_that_overflow_are_refused_by_initialize(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = hackathon("random:0", plan="19", device="cpu")
    load = Checkpoint.load_model

    def loaded(self: Checkpoint, device: torch.device) -> torch.nn.Module:
        model = load(self, device)
        model.get_parameter(UNET).data.fill_(3e38)
        return model

    monkeypatch.setattr(Checkpoint, "load_model", loaded)
    with pytest.raises(ValueError, match="the latent has values up to"):
        runtime.initialize()
    with pytest.raises(RuntimeError, match="process\\(\\) was called before initialize"):
        process(runtime)


def test_a_score_of_pictures_that_are_not_finite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANNY2IMAGE_CACHE", str(tmp_path / "cache"))
    asked = "--scale 1e30 --plan all --ddim-steps 2 --image-resolution 64 --device cpu"
    options = f"--weights {SMALL_MODEL} {asked} --out {tmp_path / 'out'}"
    monkeypatch.setattr("sys.argv", ["compute_score.py", *options.split()])
    assert compute_score.main() == 2
    assert "compute_score.py: the latent has values up to" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jpg"))
    assert not list(tmp_path.rglob("score.json"))
