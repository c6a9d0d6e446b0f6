"""The engine builder's command line. Engines are eager, because compiling takes minutes."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import nn

import build.inductor
import cldm.engine_files
from build.__main__ import main
from build.errors import BuildError
from build.workers import Result
from cldm.compiled_files import Compiled
from cldm.engine_files import Target, expected_manifest, find_engines
from cldm.prompt_syntax import PromptSyntax
from cldm.stages import STAGES
from files import locked
from plugins.choices import Choices
from runtime.artifacts import FILE, EngineFileError, pack, read, read_manifest
from runtime.eager import EagerEngine
from runtime.engine import Stream
from runtime.spec import EngineSpec

CPU = torch.device("cpu")
TARGET = Target("small", 64, 64, 1, "fp32")
CHOSEN = {"parts": 4}
COMMAND = "--backend inductor --architecture small --height 64 --width 64 --device cpu".split()


class LoadedEngine(EagerEngine):
    """An eager engine in place of a stage's compiled code."""

    def __init__(self, spec: EngineSpec, module: nn.Module, artifact: object) -> None:
        super().__init__(spec, module)
        assert artifact == spec.name


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder for engine files, and compile nothing."""

    @contextmanager
    def compiling(target: Target, device: torch.device) -> Iterator[tuple[Choices, Iterator[Result]]]:
        yield CHOSEN, (Result(stage, Compiled({stage: b"code"}, {}, {}), 0.5) for stage in reversed(STAGES))

    monkeypatch.setattr(cldm.engine_files, "ENGINES", tmp_path / "engines")
    monkeypatch.setattr(build.inductor, "compiling", compiling)
    monkeypatch.setattr(build.inductor, "KERNELS", {})
    monkeypatch.setattr(build.inductor, "InductorEngine", LoadedEngine)
    monkeypatch.setattr(Compiled, "load", lambda compiled, device: {stage: stage for stage in compiled.code})
    return tmp_path / "engines"


class WrongEngine(LoadedEngine):
    def enqueue(self, stream: Stream) -> None:
        super().enqueue(stream)
        if self.spec.name == "decoder":
            self.outputs[0].mul_(1.001)


class IdleEngine(LoadedEngine):
    def enqueue(self, stream: Stream) -> None:
        pass


class StoppedEngine(LoadedEngine):
    def enqueue(self, stream: Stream) -> None:
        if self.spec.name == "control":
            raise KeyboardInterrupt


def test_without_cuda_there_is_nothing_to_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engines: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "engines: nothing to build without a CUDA device; backend eager needs no engines"
    ]
    assert captured.err == ""
    assert not engines.exists()


def test_from_nothing_to_up_to_date(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMAND) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "text", "hint", "control", "encoder", "decoder", "vae"]
    assert last == f"engines: saved in {TARGET.folder}"
    assert TARGET.folder == engines / "inductor_small_64x64x1_fp32"
    assert read(TARGET.folder, expected_manifest(TARGET, CPU)) == pack(dict.fromkeys(STAGES, b"code"))
    assert read_manifest(TARGET.folder)["choices"] == CHOSEN

    before = (TARGET.folder / FILE).stat().st_ino
    assert main(COMMAND) == 0
    assert capsys.readouterr().out == f"engines: up to date ({TARGET.folder})\n"
    assert (TARGET.folder / FILE).stat().st_ino == before
    assert main([*COMMAND, "--force"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_the_command_in_a_refusal_builds_what_is_missing(engines: Path) -> None:
    with pytest.raises(EngineFileError) as caught:
        find_engines(TARGET, CPU)
    command = str(caught.value).split("; build them with python -m build ")[1]
    assert main(command.split()) == 0
    assert read(TARGET.folder, expected_manifest(TARGET, CPU)) == pack(dict.fromkeys(STAGES, b"code"))


@pytest.mark.parametrize("chunks", [1, 2])
def test_prompts_in_webuis_syntax(chunks: int, engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*COMMAND, *f"--prompt-syntax webui --prompt-chunks {chunks}".split()]
    assert main(command) == 0
    target = replace(TARGET, syntax=PromptSyntax("webui", chunks))
    assert read(target.folder, expected_manifest(target, CPU)) == pack(dict.fromkeys(STAGES, b"code"))
    with pytest.raises(EngineFileError):
        find_engines(TARGET, CPU)
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"engines: up to date ({target.folder})"


def test_the_log_of_a_rebuild_is_short(
    engines: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANNY2IMAGE_CHECKPOINT", "random:0")
    command = "--backend inductor --height 64 --width 64 --device cpu".split()
    caplog.set_level(logging.INFO)
    assert main(command) == 0
    assert caplog.messages == [
        "weights: random:0 (small, from $CANNY2IMAGE_CHECKPOINT)",
        f"engine files {TARGET.folder}: the folder does not exist; building them",
    ]
    (TARGET.folder / FILE).write_bytes(b"")
    caplog.clear()
    assert main(command) == 0
    (message,) = caplog.messages[1:]
    assert message.startswith(f"engine files {TARGET.folder}: the manifest of engines.bin is not valid JSON (")
    assert message.endswith("; building them")


def test_what_a_build_cannot_write_is_noticed_before_it(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.inductor, "build", Mock(side_effect=AssertionError("the build must not start")))
    engines.mkdir()
    with locked(engines / f".{TARGET.folder.name}.lock", ""):
        assert main(COMMAND) == 1
        assert re.search(r"^engines: .+_fp32\.lock is locked by process \d+ on .+: wait", capsys.readouterr().err)
    (TARGET.folder / FILE).mkdir(parents=True)
    assert main(COMMAND) == 1
    assert f"engines: {TARGET.folder / FILE} cannot be written (it is a folder)" in capsys.readouterr().err


@pytest.mark.parametrize("engine", [WrongEngine, IdleEngine])
def test_wrong_engines_are_not_saved(
    engine: type[EagerEngine], engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.inductor, "InductorEngine", engine)
    assert main(COMMAND) == 1
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("engines: ")]
    stage = "decoder" if engine is WrongEngine else "text"
    assert message.startswith(f"engines: the compiled stage {stage} has a relative error of ")
    assert message.endswith("no engines were saved; use backend eager")
    assert not [*engines.iterdir()]


def test_interrupted(engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(build.inductor, "InductorEngine", StoppedEngine)
    assert main(COMMAND) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "engines: stopped, no engines were saved"
    assert not [*engines.iterdir()]


def test_without_a_choice_a_failure_is_a_notice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If no engine can be compiled on a GPU, the build still succeeds, because make score can run eager engines."""

    def failing(*arguments: object) -> None:
        raise BuildError("stage text cannot be compiled")

    monkeypatch.setattr(build.inductor, "build", failing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["--architecture", "small", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "cannot be compiled" in captured.err
    assert captured.out == "engines: none built; backend eager needs no engines\n"


@pytest.mark.gpu
def test_compiled_engines_of_the_small_model(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(cldm.engine_files, "ENGINES", engines)
    assert main("--backend inductor --architecture small --height 64 --width 64".split()) == 0
    find_engines(Target("small", 64, 64, 1, "fp16"), torch.device("cuda"))


def test_another_gpu_than_the_first_is_refused() -> None:
    target = Target("small", 64, 64, 1, "fp16")
    with pytest.raises(BuildError, match=r"got device cuda:1, expected the first GPU .* CUDA_VISIBLE_DEVICES to 1"):
        build.inductor.build(target, torch.device("cuda", 1))


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.inductor, "compiling", Mock(side_effect=BuildError("stage text cannot be compiled")))
    with pytest.raises(BuildError, match="stage text cannot be compiled"):
        main([*COMMAND, "--debug"])
