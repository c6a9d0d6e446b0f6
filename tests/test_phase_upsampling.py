"""Upsampling in phases keeps the results and the names, and follows weights that are replaced in place."""

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.fast import make_fast
from cldm.model import ControlLDM
from ldm.blocks import Upsample
from ldm.config import load_architecture
from ldm.weights import randomize
from plugins.phase_upsampling import PhaseUpsample, pays, phase_kernels, upsample_in_phases
from tests.arguments import process
from tests.inside import pipelines_of
from tests.test_hackathon_loras import write_lora

compiler = os.environ.get("CXX", "g++")


def both(channels: int, dtype: torch.dtype) -> tuple[Upsample, Upsample]:
    """Return a layer with random weights, and a copy that uses the phases."""
    plain = Upsample(channels)
    randomize(plain, 0)
    phases = copy.deepcopy(plain.to(dtype).requires_grad_(False))
    upsample_in_phases(phases)
    return plain, phases


def maps(n: int, channels: int, h: int, w: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(n, channels, h, w, generator=torch.Generator().manual_seed(0)).to(dtype)


def layers_of(model: torch.nn.Module) -> list[PhaseUpsample]:
    return [module for module in model.modules() if isinstance(module, PhaseUpsample)]


def error(got: Tensor, true: Tensor) -> float:
    return float((got.double() - true).norm() / true.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("size", [(2, 16, 24), (1, 29, 31), (3, 16, 17)])
def test_error_is_at_most_twice_that_of_the_3x3_convolution(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    plain, phases = both(16, dtype)
    x = maps(size[0], 16, *size[1:], dtype)
    usual, got, true = plain(x), phases(x), copy.deepcopy(plain).double()(x.double())
    assert got.shape == true.shape
    assert not torch.equal(got, usual), "the layer does not use the phases"
    first, last = slice(0, 1), slice(-1, None)
    for part in (..., (..., first), (..., last), (..., first, slice(None)), (..., last, slice(None))):
        assert error(got[part], true[part]) <= 2 * error(usual[part], true[part])


def test_small_maps_keep_the_3x3_convolution() -> None:
    assert [pays(2 * h * w) for h, w in ((4, 6), (8, 12), (16, 24), (32, 48))] == [False, False, True, True]
    plain, phases = both(8, torch.float32)
    x = maps(1, 8, 8, 12, torch.float32)
    assert torch.equal(phases(x), plain(x))


def test_sums_are_rounded_once() -> None:
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.float16)
    weight[..., 1:, 1:] = torch.tensor([[1, 2**-11], [2**-11, 0]])
    assert phase_kernels(weight)[3, 0, 1, 1] == 1 + 2**-10


def test_keys_stay_and_a_second_call_changes_nothing() -> None:
    model = ControlLDM(load_architecture("small"))
    keys = [*model.state_dict()]
    upsample_in_phases(make_fast(model, torch.float32))
    addresses = [layer.sums.data_ptr() for layer in layers_of(model)]
    upsample_in_phases(model)
    assert [*model.state_dict()] == keys
    assert [layer.sums.data_ptr() for layer in layers_of(model)] == addresses
    assert len(addresses) == 6, "expected three in the UNet and three in the VAE's decoder"


@pytest.fixture(scope="module")
def running() -> hackathon:
    made = hackathon(str(SMALL_MODEL), plan="19", device="cpu")
    made.initialize()
    upsample_in_phases(pipelines_of(made).model)
    return made


@pytest.mark.parametrize(("call", "changed"), [("load_weights", 6), ("set_loras", 3)])
def test_sums_follow_replaced_weights(running: hackathon, call: str, changed: int, tmp_path: Path) -> None:
    running.set_loras([])
    running.load_weights("random:0")
    layers = layers_of(pipelines_of(running).model)
    before = [(layer.sums.data_ptr(), layer.sums.clone()) for layer in layers]
    if call == "load_weights":
        running.load_weights("random:1")
    else:
        running.set_loras([(write_lora(tmp_path / "lora.safetensors", 1, "conv"), 1.0)])
    for layer, (address, _) in zip(layers, before, strict=True):
        assert layer.sums.data_ptr() == address, "a captured graph would read the old sums"
        assert torch.equal(layer.sums, phase_kernels(layer.conv.weight))
    assert sum(not torch.equal(layer.sums, old) for layer, (_, old) in zip(layers, before, strict=True)) == changed


def test_a_picture_stays(running: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for pixels in (0, 10**9):
        monkeypatch.setattr("plugins.phase_upsampling.PIXELS", pixels)
        found.append((torch.tensor(process(running)[0]).int(), running.latent))
    (picture, latent), (usual_picture, usual_latent) = found
    assert not torch.equal(latent, usual_latent), "the UNet does not use the phases"
    torch.testing.assert_close(latent, usual_latent, rtol=0, atol=1e-3)
    assert (picture - usual_picture).abs().max() <= 1


@pytest.mark.skipif(shutil.which(compiler) is None, reason=f"Inductor needs a C++ compiler, found no {compiler}")
def test_compiled_phases_are_a_convolution_and_one_kernel() -> None:
    from torch._inductor import config, metrics

    _, phases = both(16, torch.float32)
    x = maps(2, 16, 16, 24, torch.float32).contiguous(memory_format=torch.channels_last)
    metrics.reset()
    with config.patch(force_disable_caches=True):
        got = torch.compile(phases, fullgraph=True, dynamic=False)(x)
    assert metrics.generated_kernel_count == 1
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, phases(x))
