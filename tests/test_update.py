"""The update of the latent: against its formula, and the kernel against PyTorch."""

import pytest
import torch
from torch import Tensor

from plugins.nvrtc import compile_ptx, cubin
from plugins.update.op import SOURCE, plain_update, update
from plugins.waiting import waits_first
from tests.nvrtc import require_nvrtc


def arguments(samples: int, taps: int, calls: int, device: str = "cpu") -> list[Tensor]:
    torch.manual_seed(calls)
    x, noise = torch.randn(2, samples, 4, 8, 12, device=device)
    eps, scale = torch.randn(2 * samples, 4, 8, 12, device=device), 9 * torch.rand(samples, device=device)
    weights = torch.randn(2 + taps, samples, device=device)
    return [x, noise, eps, scale, weights, torch.randn(calls, samples, 4, 8, 12, device=device)]


@pytest.mark.parametrize("calls", [1, 2, 5])
@pytest.mark.parametrize("taps", [1, 3])
def test_the_formula(taps: int, calls: int) -> None:
    x, noise, eps, scale, weights, guides = arguments(2, taps, calls)
    last, before = x.clone(), guides.clone()
    plain_update(x, noise, eps, scale, weights, guides)
    for n in range(2):
        guide = eps[2 + n] + scale[n] * (eps[n] - eps[2 + n])
        expected = weights[0, n] * last[n] + weights[1, n] * noise[n] + weights[2, n] * guide
        for tap in range(1, min(taps, calls)):
            expected = expected + weights[2 + tap, n] * before[calls - 1 - tap, n]
        torch.testing.assert_close(x[n], expected)
        torch.testing.assert_close(guides[-1, n], guide)
    assert torch.equal(guides[:-1], before[:-1]), "earlier guides stay"


def test_the_kernel_compiles() -> None:
    require_nvrtc()
    for architecture in (80, 90):
        ptx = compile_ptx(SOURCE, (), architecture).decode()
        assert waits_first(ptx) == (architecture >= 90)
        assert b".text.canny2image_update" in cubin(SOURCE, (), architecture)


@pytest.mark.gpu
@pytest.mark.parametrize("calls", [1, 2, 5])
@pytest.mark.parametrize(("samples", "taps"), [(1, 1), (3, 2), (8, 3)])
def test_the_kernel(samples: int, taps: int, calls: int) -> None:
    ours, plain = (arguments(samples, taps, calls, "cuda") for _ in range(2))
    update(*ours)
    plain_update(*plain)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
def test_one_kernel_is_launched() -> None:
    values = arguments(1, 1, 1, "cuda")
    update(*values)
    with torch.profiler.profile() as profile:
        update(*values)
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type.name == "CUDA"]
    assert names == ["canny2image_update"]
