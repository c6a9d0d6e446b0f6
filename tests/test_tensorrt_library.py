"""The libraries that build, read and run engines, and the errors if there is none."""

import sys

import pytest
import torch

from runtime.tensorrt_calls import TensorRTError
from runtime.tensorrt_library import (
    LIBRARIES,
    check_device,
    dotted,
    installed,
    library_that_builds,
    library_that_reads,
    library_that_runs_on,
    sm,
)
from tests.standin import tensorrt as standin

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NAMES = [library.module for library in LIBRARIES]


def machine(monkeypatch: pytest.MonkeyPatch, gpu: int | None, *modules: str) -> None:
    """Simulate a machine with these libraries and one GPU of this compute capability, or no GPU."""
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, standin if name in modules else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(gpu is not None))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: divmod(gpu or 0, 10))


def test_libraries_are_told_apart_by_the_table_alone() -> None:
    assert [library.magic for library in LIBRARIES] == [b"ftrt", b"ftrt", b"vtrt"]
    assert [library.module for library in LIBRARIES if library.plugins] == ["tensorrt"]
    assert [library.module for library in LIBRARIES if library.builds] == ["tensorrt", "tensorrt_rtx"]
    assert all(library.capabilities for library in LIBRARIES if library.portable), "otherwise its targets are unlimited"
    assert (dotted(89), dotted(120), sm(75)) == ("8.9", "12.0", "sm75")


@pytest.mark.parametrize(
    ("gpu", "targets", "there", "chosen"),
    [
        (90, (), ["tensorrt", "tensorrt_rtx"], "tensorrt"),
        (89, (), ["tensorrt", "tensorrt_rtx"], "tensorrt"),
        (89, (), ["tensorrt_lean", "tensorrt_rtx"], "tensorrt_rtx"),
        (120, (), ["tensorrt_rtx"], "tensorrt_rtx"),
        (None, (86, 120), ["tensorrt", "tensorrt_rtx"], "tensorrt_rtx"),
        (90, (89,), ["tensorrt", "tensorrt_rtx"], "tensorrt_rtx"),
    ],
)
def test_who_builds(
    gpu: int | None, targets: tuple[int, ...], there: list[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpu, *there)
    assert library_that_builds(CUDA if gpu else CPU, targets).module == chosen


@pytest.mark.parametrize(
    ("gpu", "targets", "there", "sentence"),
    [
        (None, (), NAMES, r"need a CUDA device: got cpu, .* or build for another machine with --target sm89$"),
        (
            90,
            (),
            ["tensorrt_lean", "tensorrt_rtx"],
            r"\(tensorrt: .*\): run ./preprocess.sh tensorrt, install tensorrt-cu13, or",
        ),
        (
            89,
            (),
            [],
            r"imported \(.*\): run ./preprocess.sh tensorrt or ./preprocess.sh tensorrt-rtx, install tensorrt-cu13 or "
            "tensorrt-rtx-cu13, or use another backend$",
        ),
        (
            None,
            (89,),
            ["tensorrt"],
            r"\(tensorrt_rtx: .*\): run .* tensorrt-rtx, install tensorrt-rtx-cu13, or use",
        ),
        (
            90,
            (89, 90),
            NAMES,
            r"no library builds for sm89 and sm90 with --target: .* for other GPUs, build without --target on a",
        ),
    ],
)
def test_nobody_builds(
    gpu: int | None, targets: tuple[int, ...], there: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpu, *there)
    with pytest.raises(TensorRTError, match=sentence):
        library_that_builds(CUDA if gpu else CPU, targets)


def test_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    classic, rtx = (magic + bytes(24) for magic in (b"ftrt", b"vtrt"))
    machine(monkeypatch, 89, *NAMES)
    assert [library_that_reads("vae", one).module for one in (classic, rtx)] == ["tensorrt", "tensorrt_rtx"]
    machine(monkeypatch, 89, "tensorrt_lean")
    assert library_that_reads("vae", classic).module == "tensorrt_lean"
    with pytest.raises(TensorRTError, match=r"\(tensorrt_rtx: .*\): run .*, install tensorrt-rtx-cu13, or"):
        library_that_reads("vae", rtx)
    for foreign in (b"", classic[:27], b"ftrt" + bytes([1]) * 24, b"PK\3\4" + bytes(100)):
        with pytest.raises(
            TensorRTError, match=r"engine vae: \d+ bytes that .* are not a serialized TensorRT engine, .* or b'vtrt'"
        ):
            library_that_reads("vae", foreign)


def test_who_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 89, *NAMES)
    titles = ("TensorRT", "TensorRT for RTX", "", "something else")
    found = [library_that_runs_on(CUDA, title).module for title in titles]
    assert found == ["tensorrt", "tensorrt_rtx", "tensorrt", "tensorrt"]
    machine(monkeypatch, 89, "tensorrt_lean", "tensorrt_rtx")
    assert library_that_runs_on(CUDA, "TensorRT").module == "tensorrt_lean"
    machine(monkeypatch, 90, "tensorrt", "tensorrt_rtx")
    assert library_that_runs_on(CUDA, "TensorRT for RTX").module == "tensorrt", (
        "TensorRT for RTX does not support this GPU"
    )
    assert [library.module for library in installed()] == ["tensorrt", "tensorrt_rtx"]


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 90, *NAMES)
    classic, _, rtx = LIBRARIES
    check_device(CUDA, classic)
    with pytest.raises(
        TensorRTError, match=r"for RTX supports GPUs of compute capability 7\.5, .*, but cuda has 9\.0: run ./p"
    ):
        check_device(CUDA, rtx)
    machine(monkeypatch, 89, *NAMES)
    check_device(CUDA, rtx)
    check_device(torch.device("cuda:0"))
    for device in ("cpu", "cuda:1"):
        with pytest.raises(TensorRTError, match=f"got {device}, and PyTorch sees 1 of them"):
            check_device(torch.device(device))
