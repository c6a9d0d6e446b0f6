"""Precision fp8 without a GPU: rounding, the layers, and pictures of the small model."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from build.__main__ import main as build
from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.fast import make_fast
from cldm.model import ControlLDM
from ldm.blocks import Parts, ResBlock
from ldm.config import load_architecture
from ldm.shapes_only import shapes_only
from plans.requests import make_requests
from plugins.convolution.op import _check, convolution
from plugins.derived import derive_weights
from plugins.fp8 import RoundedConv2d, RoundedGroupNorm, fuse_rounded, round_block, rounded
from plugins.group_norm.joined import group_norm_joined
from plugins.group_norm.op import FP8, group_norm
from plugins.nvrtc import KernelError
from runtime.backends import PRECISIONS, choose_precision, with_precision
from tests.norm_maps import EPS, tensors

CPU = torch.device("cpu")
REQUEST = replace(make_requests("report", 1, None)[0], image_resolution=64)
ROUNDING = 2**-4  # largest relative error of e4m3


def blocks() -> tuple[ResBlock, ResBlock]:
    """Return a block, and the same rounded."""
    torch.manual_seed(0)
    plain = ResBlock(32, 64, 16, 8).requires_grad_(False)
    other = ResBlock(32, 64, 16, 8).requires_grad_(False)
    other.load_state_dict(plain.state_dict())
    round_block(other)
    return plain, other


def relative(got: Tensor, true: Tensor) -> float:
    return float((got - true).norm() / true.norm())


def test_numbers_keep_three_bits() -> None:
    x = torch.tensor([0.0, 1.0, -1.0625, 1.0625, 1.1875, 0.00195, 56.0, 57.0, -1e4])
    torch.testing.assert_close(rounded(x), torch.tensor([0.0, 1, -1, 1, 1.25, 0.001953125, 56, 56, -56]))
    torch.manual_seed(0)
    normal = torch.randn(10_000).abs().clamp_min(0.002)
    assert ((rounded(normal) - normal).abs() <= ROUNDING * normal).all()


def test_weights_have_a_scale_for_each_output_channel() -> None:
    _, block = blocks()
    layer = block.last_convolution
    assert isinstance(layer, RoundedConv2d)
    layer.weight.data[5] *= 1e-4
    layer.weight.data[6] = 0
    layer.derive()
    got, largest = layer.rounded_weight(), layer.weight.abs().amax(dim=(1, 2, 3), keepdim=True)
    assert ((got - layer.weight).abs() <= ROUNDING * layer.weight.abs() + largest / 448 * 2**-10).all()
    assert got[6].eq(0).all()


def test_a_block_changes_little() -> None:
    plain, block = blocks()
    x, shift = torch.randn(2, 32, 5, 7), torch.randn(1, 64)
    got, true = block(x, shift), plain(x, shift)
    assert 0.001 < relative(got, true) < 0.05
    parts = Parts(x[:, :16], x[:, 16:], torch.zeros(2, 16, 5, 7))
    torch.testing.assert_close(block(parts, shift), got)


def test_the_convolution_is_that_of_the_rounded_numbers() -> None:
    _, block = blocks()
    norm, layer = block.in_layers[0], block.in_layers[2]
    assert isinstance(norm, RoundedGroupNorm)
    assert isinstance(layer, RoundedConv2d)
    x = torch.randn(2, 32, 5, 7)
    e4m3 = group_norm(x, norm.weight, norm.bias, 8, norm.eps, True, fp8=True)
    assert e4m3.dtype == FP8
    assert layer.bias is not None
    sums = F.conv2d(e4m3.double(), layer.weight8.double(), padding=1)
    true = sums * layer.scales[:, None, None] + layer.bias.double()[:, None, None]
    torch.testing.assert_close(layer(norm(x)).double(), true, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_the_norm_keeps_the_layout(memory: torch.memory_format) -> None:
    x, weight, bias = tensors(2, 32, 4, 6, memory)
    got = group_norm(x, weight, bias, 8, EPS, True, fp8=True)
    assert (got.dtype, got.stride()) == (FP8, x.stride())
    joined, normal = group_norm_joined(x[:, :16], x[:, 16:], 0 * x[:, 16:], weight, bias, 8, EPS, True, fp8=True)
    assert torch.equal(joined, x)
    assert torch.equal(normal.float(), got.float())


def test_weights_are_rounded_again() -> None:
    plain, block = blocks()
    before, weight8 = block.last_convolution(torch.ones(1, 64, 3, 3)), block.last_convolution.weight8
    names = set(plain.state_dict())
    assert set(block.state_dict()) == names
    block.load_state_dict({name: 2 * value for name, value in plain.state_dict().items()})
    derive_weights(block)
    assert block.last_convolution.weight8 is weight8
    torch.testing.assert_close(block.last_convolution(torch.ones(1, 64, 3, 3)), 2 * before)


def test_which_blocks_are_rounded() -> None:
    """Those of the coarsest two resolutions."""
    with shapes_only():
        model = make_fast(ControlLDM(load_architecture("sd15")), torch.float16, fp8=True)
    names = {name.rpartition(".in_layers")[0] for name, one in model.named_modules() if isinstance(one, RoundedConv2d)}
    inputs, middle = [7, 8, 10, 11], [0, 2]
    unet, control = "model.diffusion_model.", "control_model."
    expected = {f"{net}input_blocks.{i}.0" for net in (unet, control) for i in inputs}
    expected |= {f"{net}middle_block.{i}" for net in (unet, control) for i in middle}
    expected |= {f"{unet}output_blocks.{i}.0" for i in range(6)}
    assert names - {""} == expected
    assert sum(isinstance(one, RoundedConv2d) for one in model.modules()) == 2 * len(expected)


def test_narrow_blocks_stay() -> None:
    block = ResBlock(24, 64, 16, 8)
    round_block(block)
    assert not isinstance(block.in_layers[2], RoundedConv2d)
    assert isinstance(block.last_convolution, RoundedConv2d)


@pytest.mark.parametrize(
    ("x", "stride", "sentence"),
    [
        (torch.zeros(1, 24, 4, 4), 1, "multiples of 16"),
        (torch.zeros(1, 32, 4, 4), 2, "expected stride 1"),
        (torch.zeros(1, 32, 4, 4), 1, "got x as torch.float32"),
    ],
)
def test_what_the_op_refuses(x: Tensor, stride: int, sentence: str) -> None:
    weight = torch.zeros(64, x.shape[1], 3, 3).to(FP8)
    with pytest.raises(ValueError, match=sentence):
        _check(x, weight, None, stride=stride, scales=torch.ones(64))


def test_the_result_of_the_op() -> None:
    x, weight = (torch.empty(*size, device="meta", dtype=FP8) for size in ((2, 64, 4, 6), (128, 64, 3, 3)))
    result = convolution(x, weight, scales=torch.empty(128, device="meta"))
    assert (result.shape, result.dtype) == ((2, 128, 4, 6), torch.float16)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("fp8", CPU) == replace(PRECISIONS["fp8"], dtype=torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_precision("fp8", torch.device("cuda:0")) == PRECISIONS["fp8"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(ValueError, match=r"needs an H100 or H200, and cuda:0 has compute capability 8\.6: use fp16"):
        choose_precision("fp8", torch.device("cuda:0"))


@pytest.mark.parametrize("backend", ["inductor", "tensorrt"])
def test_engines_need_a_hopper_gpu(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", backend, "--precision", "fp8", "--device", "cpu", "--architecture", "small"]
    assert build([*arguments, "--weights", "random:0"]) == 1
    assert "expected inductor and an H100 or H200" in capsys.readouterr().err


def test_backends_that_have_it() -> None:
    fp8, gpu = PRECISIONS["fp8"], torch.device("cuda")
    names = "tensorrt", "inductor", "eager"
    assert with_precision(names, fp8, gpu) == names[1:]
    assert with_precision(names, PRECISIONS["fp16"], gpu) == names
    assert with_precision(("eager",), fp8, CPU) == ("eager",)
    with pytest.raises(ValueError, match="tensorrt: its engines have no precision fp8: use backend inductor or eager"):
        with_precision(("tensorrt",), fp8, gpu)
    with pytest.raises(ValueError, match="an H100 or H200 only, and the device is cpu: use eager"):
        hackathon(str(SMALL_MODEL), precision="fp8", backend="inductor", device="cpu")


@pytest.mark.parametrize("compiles", [True, False])
def test_the_kernels_are_used_if_they_compile(
    compiles: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def check() -> None:
        if not compiles:
            raise KernelError("no Triton")

    monkeypatch.setattr("plugins.fp8.check_fp8_compiler", check)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    _, block = blocks()
    fuse_rounded(block)
    norms = [one for one in block.modules() if isinstance(one, RoundedGroupNorm)]
    assert [norm.fused for norm in norms] == [compiles, compiles]
    assert ("slower: no Triton" in caplog.text) != compiles


def test_engines_for_cards_that_are_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert build(["--target", "sm89", "--precision", "fp8", "--architecture", "small", "--weights", "random:0"]) == 1
    assert "got backend tensorrt and device" in capsys.readouterr().err


def test_plans_are_not_searched_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert build(["plans", "--precision", "fp8", "--device", "cpu"]) == 1
    assert "expected fp32 or fp16" in capsys.readouterr().err


def test_a_picture() -> None:
    """It is nearer to that of fp32 than one of ten evaluations, and the same after weights were written again."""
    latents = {}
    for precision, plan in (("fp32", "all"), ("fp8", "all"), ("fp32", "ten")):
        runtime = hackathon(str(SMALL_MODEL), precision=precision, plan=plan, device="cpu")
        runtime.initialize()
        runtime.draw(REQUEST)
        assert runtime.settings["precision"] == precision
        latents[precision, plan] = runtime.latent
        if precision == "fp8":
            runtime.set_loras([])
            runtime.draw(REQUEST)
            assert torch.equal(runtime.latent, latents["fp8", "all"])
    true = latents["fp32", "all"]
    errors = relative(latents["fp8", "all"], true), relative(latents["fp32", "ten"], true)
    assert 0.001 < errors[0] < errors[1]
