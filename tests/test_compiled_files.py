"""The content of engine files of compiled code."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cldm.engine_files
from cldm.compiled_files import CodeError, Compiled
from cldm.engine_files import Target, expected_manifest, find_engines
from cldm.stages import STAGES
from plugins.machine_code import KERNELS, machine_code
from runtime.artifacts import EngineFileError, save_stages
from runtime.compiled_code import install, libraries

CPU = torch.device("cpu")
TARGET = Target("small", 64, 64, 1, "fp32")
COMPILED = Compiled({"text": b"code"}, {"a/b": b"kernel"}, {"cd/e.so": b"library"})


@pytest.fixture
def no_kernels() -> Iterator[None]:
    """Forget compiled kernels, before and after."""
    KERNELS.clear()
    yield
    KERNELS.clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_parts_of_engine_files() -> None:
    assert COMPILED.parts == {"text": b"code", "kernel/a/b": b"kernel", "library/cd/e.so": b"library"}
    assert Compiled.of(COMPILED.parts) == COMPILED


@pytest.mark.usefixtures("no_kernels")
def test_what_the_code_needs_is_there_before_it_is_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(saved: bytes) -> str:
        assert machine_code("a/b", lambda: b"compiled") == b"kernel"
        assert (cache / "cd" / "e.so").read_bytes() == b"library"
        return saved.decode()

    monkeypatch.setattr("cldm.compiled_files.load_code", load)
    assert COMPILED.load(CPU) == {"text": "code"}


def test_libraries_that_may_be_in_use_stay(cache: Path) -> None:
    install({"a.so": b"first", "b/c.so": b"first"})
    install({"a.so": b"second", "d.so": b"second"})
    assert libraries(cache) == {"a.so": b"first", "b/c.so": b"first", "d.so": b"second"}


@pytest.mark.parametrize("saved", [b"kernels", b""])
def test_code_that_torch_cannot_read(saved: bytes, cache: Path) -> None:
    with pytest.raises(CodeError, match=r"PyTorch cannot load the code \(\w+: .*\)$"):
        Compiled({"text": saved}, {}, {}).load(CPU)


def test_a_cache_that_cannot_be_written(cache: Path) -> None:
    cache.touch()
    with pytest.raises(CodeError, match=rf"PyTorch cannot load the code \(\w+: .*{cache}"):
        COMPILED.load(CPU)


@pytest.fixture
def files(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write engine files with code that PyTorch cannot read, but whose checksum is right."""
    monkeypatch.setattr(cldm.engine_files, "ENGINES", tmp_path)
    save_stages(TARGET.folder, dict.fromkeys(STAGES, b"code"), expected_manifest(TARGET, CPU))


@pytest.mark.usefixtures("files")
def test_unreadable_code_is_refused_with_the_command_that_helps() -> None:
    with pytest.raises(EngineFileError, match=r"PyTorch cannot load the code \(.+\); build them with python -m build"):
        find_engines(TARGET, CPU)


@pytest.mark.usefixtures("files")
def test_code_for_another_gpu_is_not_loaded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cldm.engine_files, "expected_manifest", lambda target, device: expected_manifest(target, CPU))
    assert find_engines(TARGET, torch.device("cuda", 1)).name == "inductor"
    (message,) = caplog.messages
    assert "compiling for cuda:1, which takes minutes; set CUDA_VISIBLE_DEVICES to 1" in message
