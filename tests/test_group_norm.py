"""GroupNorm with SiLU: the op on the CPU, the kernel's launch parameters, and its compilation."""

from unittest.mock import Mock

import pytest
import torch

import plugins.machine_code
import plugins.nvrtc
import tests.nvrtc
from benchmarks.group_norm import SHAPES
from plugins.group_norm import joined
from plugins.group_norm.large import GROUPS, is_large, large_launches
from plugins.group_norm.large import SOURCE as SOURCE_OF_LARGE
from plugins.group_norm.launch import NAME, SOURCE, Launch, can_join, choose_launch
from plugins.group_norm.op import group_norm, reference
from plugins.nvrtc import KernelError, compile_ptx, cubin
from plugins.waiting import waits_first
from tests.norm_maps import EPS, FORMATS, JOINED, ODD, SHIFTED, parts, tensors, torchs
from tests.nvrtc import require_nvrtc


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("memory", FORMATS)
def test_the_reference_is_torchs(memory: torch.memory_format, silu: bool) -> None:
    x, weight, bias = (tensor.double() for tensor in tensors(2, 60, 5, 7, memory))
    for shift in (None, bias[None]):
        got = reference(x, weight, bias, 6, EPS, silu, shift)
        torch.testing.assert_close(got, torchs(x, weight, bias, 6, EPS, silu, shift))
        assert got.stride() == x.stride()


@pytest.mark.parametrize("memory", FORMATS)
def test_the_op_on_the_cpu(memory: torch.memory_format) -> None:
    x, weight, bias = tensors(2, 60, 5, 7, memory)
    options = 6, EPS, True
    got = torch.ops.canny2image.group_norm(x, weight, bias, *options)
    assert torch.equal(got, reference(x, weight, bias, *options))
    assert got.is_contiguous(memory_format=memory)
    assert got.dtype == torch.float16
    fake = group_norm(x.to("meta"), weight.to("meta"), bias.to("meta"), *options)
    assert (fake.shape, fake.stride(), fake.dtype) == (got.shape, got.stride(), got.dtype)
    torch.library.opcheck(group_norm.overload, (x, weight, bias, *options))
    torch.library.opcheck(group_norm.overload, (x, weight, bias, *options, bias[None]))


def test_two_maps_on_the_cpu() -> None:
    h, skip, residual, weight, bias = parts(2, 60, 36, 5, 7)
    tensors, options = (h, skip, residual, weight, bias), (6, EPS, True)
    x, y = torch.ops.canny2image.group_norm_joined(*tensors, *options)
    assert torch.equal(x, torch.cat([h, skip + residual], dim=1))
    assert torch.equal(y, reference(x, weight, bias, *options))
    fakes = joined.group_norm_joined(*(one.to("meta") for one in tensors), *options)
    for got, fake in zip((x, y), fakes, strict=True):
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert (fake.shape, fake.stride(), fake.dtype) == (got.shape, got.stride(), got.dtype)
    torch.library.opcheck(joined.group_norm_joined.overload, (*tensors, *options))


def constants(launch: Launch) -> dict[str, int]:
    return {name: int(value) for name, value in launch.defines if name != "EPS"}


MEASURED = {  # channels, pixels and joined channels of 16 images: values per load, span, its blocks, threads, loads
    (320, 1536, 0): (8, 40, 1, 512, 8),
    (640, 384, 0): (8, 40, 1, 256, 8),
    (640, 1536, 320): (8, 80, 1, 512, 8),
    (960, 1536, 640): (8, 120, 1, 512, 8),
    (1280, 384, 640): (8, 80, 1, 512, 8),
    (1920, 384, 1280): (8, 120, 1, 512, 6),
}


@pytest.mark.parametrize("size", MEASURED, ids=str)
def test_the_launch_of_many_images_is_one_that_was_measured(size: tuple[int, int, int]) -> None:
    channels, pixels, joined = size
    found = constants(choose_launch(16, channels, pixels, 32, EPS, True, True, clusters=True, joined=joined))
    assert tuple(found[name] for name in ("VECTOR", "SPAN", "CLUSTER", "THREADS", "HOLD")) == MEASURED[size]


def test_the_constants_of_a_launch() -> None:
    launch = choose_launch(2, 320, 1536, 32, EPS, True, channels_last=True, clusters=True)
    expected = {"VECTOR": 4, "SPAN": 20, "CLUSTER": 8, "CHANNELS_LAST": 1, "SILU": 1}
    assert constants(launch).items() >= expected.items(), "two groups of ten channels should be five loads"
    assert launch.grid == (8, 16, 2)
    assert constants(choose_launch(2, 320, 1536, 32, EPS, True, channels_last=True, clusters=False))["CLUSTER"] == 1
    assert constants(choose_launch(1, 60, 99, 6, EPS, True, channels_last=True, clusters=True))["VECTOR"] == 4
    assert constants(choose_launch(1, 60, 99, 6, EPS, True, channels_last=False, clusters=True))["VECTOR"] == 1
    assert (
        constants(choose_launch(1, 60, 99, 6, EPS, True, channels_last=True, clusters=True, shift=True))["SHIFT"] == 1
    )
    with pytest.raises(ValueError, match="60 channels and 99 pixels in 7 groups"):
        choose_launch(1, 60, 99, 7, EPS, True, channels_last=True, clusters=True)
    with pytest.raises(ValueError, match="a shift with groups of 10 channels and channels_last=False"):
        choose_launch(1, 60, 99, 6, EPS, True, channels_last=False, clusters=True, shift=True)
    for first, vector in ((640, 8), (644, 4), (642, 2)):
        launch = choose_launch(2, 1280, 384, 32, EPS, True, channels_last=True, clusters=True, joined=first)
        assert constants(launch).items() >= {"JOINED": first, "VECTOR": vector}.items(), "a load would be of both maps"
    assert not can_join(1280, 32, 641)
    assert not can_join(1280, 32, 1280)
    assert not can_join(1280, 7, 640)
    for first, last in ((641, True), (640, False)):
        with pytest.raises(ValueError, match=f"{first} and {1280 - first} channels to join in 32 groups"):
            choose_launch(2, 1280, 384, 32, EPS, True, channels_last=last, clusters=True, joined=first)


@pytest.fixture(scope="module")
def nvrtc() -> None:
    require_nvrtc()


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("architecture", [80, 90])
def test_the_kernel_compiles(architecture: int, channels_last: bool) -> None:
    for n, c, h, w, groups in [*SHAPES[::4], *ODD]:  # a quarter of a second each
        launch = choose_launch(n, c, h * w, groups, EPS, True, channels_last, clusters=architecture >= 90)
        ptx = compile_ptx(SOURCE, launch.defines, architecture).decode()
        assert f".visible .entry {NAME}(" in ptx
        assert f".target sm_{architecture}" in ptx
        assert waits_first(ptx) == (architecture >= 90)
        assert (".reqnctapercluster" in ptx or ".explicitcluster" in ptx) == (launch.grid[0] > 1)


@pytest.mark.usefixtures("nvrtc")
def test_the_kernel_compiles_with_a_shift() -> None:
    for n, c, h, w, groups in SHIFTED:
        launch = choose_launch(n, c, h * w, groups, EPS, True, channels_last=True, clusters=True, shift=True)
        assert waits_first(compile_ptx(SOURCE, launch.defines, 90).decode())


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("group", GROUPS)
def test_the_kernels_for_large_maps_compile(group: int, architecture: int) -> None:
    _, *launches = large_launches(1, 192, 2**16, 192 // group, EPS, silu=True)
    _, *kernels = compile_ptx(SOURCE_OF_LARGE, launches[0].defines, architecture).decode().split(".visible .entry ")
    assert [kernel.partition("(")[0] for kernel in kernels] == [launch.name for launch in launches]
    assert [waits_first(kernel) for kernel in kernels] == [architecture >= 90] * 2


def test_large_maps() -> None:
    large = [shape for shape in SHAPES if is_large(shape[0], shape[1], shape[2] * shape[3], shape[4], True)]
    assert large == [shape for shape in SHAPES if shape[0] == 1 and shape[2] >= 128]
    assert not is_large(1, 128, 2**16, 32, channels_last=False)
    assert not is_large(1, 320, 2**16, 32, channels_last=True), "groups of ten channels"
    assert not is_large(8, 128, 2**20, 32, channels_last=True), "more values than the kernels can count"
    for images, expected in ((1, 264), (3, 88), (1000, 1)):
        ranges, *launches = large_launches(images, 128, 98304, 32, EPS, silu=True)
        assert ranges == expected
        assert {launch.grid for launch in launches} == {(expected, 2, images)}
        assert ("RANGES", str(expected)) in launches[0].defines


@pytest.mark.usefixtures("nvrtc")
def test_the_kernel_compiles_for_two_maps() -> None:
    for n, c, d, h, w, groups in JOINED:
        for clusters in (True, False):
            launch = choose_launch(n, c + d, h * w, groups, EPS, True, True, clusters, joined=c)
            assert waits_first(compile_ptx(SOURCE, launch.defines, 90 if clusters else 80).decode()) == clusters


@pytest.mark.usefixtures("nvrtc")
def test_machine_code_for_engine_files(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels: dict[str, bytes] = {}
    monkeypatch.setattr(plugins.machine_code, "KERNELS", kernels)
    defines = [choose_launch(1, 8, 8, 1, EPS, silu, True, clusters=True).defines for silu in (False, True)]
    made = [cubin(SOURCE, defines[0], 90), cubin(SOURCE, defines[1], 90), cubin(SOURCE, defines[0], 80)]
    assert all(one.startswith(b"\x7fELF") for one in made)
    assert len({*made}) == len(kernels) == 3
    compiler = Mock(side_effect=AssertionError("compiled again"))
    monkeypatch.setattr(plugins.nvrtc, "_compile", compiler)
    assert cubin(SOURCE, defines[0], 90) == made[0]


@pytest.mark.usefixtures("nvrtc")
def test_a_compilers_refusal_brings_its_log() -> None:
    with pytest.raises(
        KernelError,
        match=r"(?s)NVRTC_ERROR_COMPILATION.*SPAN needs whole groups, THREADS whole warps",
    ):
        compile_ptx(SOURCE, (*choose_launch(1, 8, 8, 1, EPS, False, True, False).defines, ("CHANNELS", "9")), 80)


@pytest.mark.parametrize("installed", [True, False])
def test_a_lost_compiler_fails_where_the_extra_dev_is_installed(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = KernelError("NVRTC cannot be loaded (no libnvrtc)")
    monkeypatch.setattr(tests.nvrtc, "compile_ptx", Mock(side_effect=lost))
    monkeypatch.setattr(tests.nvrtc, "is_fulfilled", lambda line: installed or "nvrtc" not in line)
    with pytest.raises(KernelError if installed else pytest.skip.Exception, match="NVRTC cannot be loaded"):
        require_nvrtc()
