"""The engine builder from its command line, with eager engines in place of compiled ones: those take minutes here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import build.inductor
import cldm.engine_files
from build.__main__ import main
from build.errors import BuildError
from build.measurement import Measurement, check, table
from build.verify import relative_error
from cldm.engine_files import Target, expected_manifest, load_engine_files
from runtime.artifacts import EngineFileError, read
from runtime.eager import EagerEngine
from runtime.engine import Engine, Stream
from runtime.inductor import Tuning
from runtime.spec import EngineSpec

CPU = torch.device("cpu")
TARGET = Target("small", 64, 64, 1, "fp32")
COMMAND = "--backend inductor --architecture small --height 64 --width 64 --device cpu".split()
GOOD = Measurement("vae", 1.0, 1e-6, 2e-6, 1e-5, None, None)


def compiled_as(monkeypatch: pytest.MonkeyPatch, make_engine: Callable[[EngineSpec, nn.Module], Engine]) -> None:
    monkeypatch.setattr(build.inductor, "InductorEngine", make_engine)


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for engine files, and nothing that compiles."""
    monkeypatch.setattr(cldm.engine_files, "ENGINES", tmp_path / "engines")
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"kernels", None))
    compiled_as(monkeypatch, EagerEngine)
    return tmp_path / "engines"


class WrongEngine(EagerEngine):
    def enqueue(self, stream: Stream) -> None:
        super().enqueue(stream)
        if self.spec.name == "decoder":
            self.outputs[0].mul_(1.001)


class IdleEngine(EagerEngine):
    def enqueue(self, stream: Stream) -> None:
        pass


class StoppedEngine(EagerEngine):
    def enqueue(self, stream: Stream) -> None:
        if self.spec.name == "control":
            raise KeyboardInterrupt


class FailingEngine(EagerEngine):
    def enqueue(self, stream: Stream) -> None:
        raise RuntimeError("Failed to find a compiler\nand much more")


def test_without_cuda_there_is_nothing_to_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engines: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "engines: backend eager runs the PyTorch modules themselves; nothing to build (no CUDA device)"
    ]
    assert captured.err == ""
    assert not engines.exists()


def test_from_nothing_to_up_to_date(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMAND) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "text", "hint", "control", "encoder", "decoder", "vae"]
    assert last == f"engines: saved in {TARGET.folder}"
    assert TARGET.folder == engines / "inductor_small_64x64x1_fp32"
    assert read(TARGET.folder, expected_manifest(TARGET, CPU)) == b"kernels"

    before = (TARGET.folder / "artifacts.bin").stat().st_ino
    assert main(COMMAND) == 0
    assert capsys.readouterr().out == f"engines: up to date ({TARGET.folder})\n"
    assert (TARGET.folder / "artifacts.bin").stat().st_ino == before
    assert main([*COMMAND, "--force"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_the_command_in_a_refusal_builds_what_is_missing(engines: Path) -> None:
    with pytest.raises(EngineFileError) as caught:
        load_engine_files(TARGET, CPU)
    command = str(caught.value).split("; build them with python -m build ")[1]
    assert main(command.split()) == 0
    assert read(TARGET.folder, expected_manifest(TARGET, CPU)) == b"kernels"


@pytest.mark.parametrize("engine", [WrongEngine, IdleEngine])
def test_wrong_engines_are_not_saved(
    engine: type[EagerEngine], engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled_as(monkeypatch, engine)
    assert main(COMMAND) == 1
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("engines: ")]
    stage = "decoder" if engine is WrongEngine else "text"
    assert message.startswith(f"engines: the compiled stage {stage} has the relative error ")
    assert message.endswith("nothing is saved; use backend eager")
    assert not engines.exists()


def test_interrupted(engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    compiled_as(monkeypatch, StoppedEngine)
    assert main(COMMAND) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "engines: stopped, nothing was saved"
    assert not engines.exists()


def test_a_stage_that_cannot_be_compiled(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled_as(monkeypatch, FailingEngine)
    assert main(COMMAND) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "engines: stage text cannot be compiled (RuntimeError: Failed to find a compiler)"


def test_without_a_choice_a_failure_is_a_notice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """make score goes on with eager on a GPU for which nothing can be compiled."""

    def failing(*arguments: object) -> None:
        raise BuildError("stage text cannot be compiled")

    monkeypatch.setattr(build.inductor, "build", failing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["--architecture", "small", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "cannot be compiled" in captured.err
    assert captured.out == "engines: none built; backend eager needs none\n"


def test_caches_that_are_switched_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: None)
    assert main(COMMAND) == 1
    assert "unset TORCHINDUCTOR_FORCE_DISABLE_CACHES" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--height", "100", "got 100, expected a multiple of 64"),
        ("--width", "0", "got 0, expected a multiple of 64"),
        ("--samples", "0", "got 0, expected at least 1"),
        ("--samples", "one", "invalid"),
        ("--backend", "fast", "invalid choice: 'fast'"),
    ],
)
def test_bad_options(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*COMMAND, option, value])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--architecture", "huge", "unknown architecture 'huge'"),
        ("--precision", "fp64", "precision 'fp64': expected auto, fp32 or fp16"),
        ("--precision", "fp16", "precision 'fp16' needs a CUDA device"),
        ("--device", "tpu", "device 'tpu'"),
    ],
)
def test_bad_choices(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, option, value]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"engines: {message}")


@pytest.mark.parametrize(
    ("error", "eager_error", "floor", "good"),
    [
        (1e-3, 6e-4, 1e-5, True),
        (1e-3, 4e-4, 1e-5, False),
        (9e-6, 0.0, 1e-5, True),
        (2e-5, 0.0, 1e-5, False),
        (float("nan"), 1.0, 1e-5, False),
        (float("inf"), 1.0, 1e-5, False),
    ],
)
def test_twice_the_eager_error_is_allowed(error: float, eager_error: float, floor: float, good: bool) -> None:
    one = replace(GOOD, error=error, eager_error=eager_error, floor=floor)
    if good:
        check([GOOD, one])
    else:
        with pytest.raises(BuildError, match="the compiled stage vae has the relative error"):
            check([GOOD, one])


def test_table_is_aligned() -> None:
    timed = replace(GOOD, stage="control", compile_seconds=123.4, milliseconds=1.25, eager_milliseconds=10.5)
    lines = table([GOOD, timed]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["control", "123.4", "1.0e-06", "1.0e-05", "2.0e-06", "-", "1.250", "10.500"]
    assert table([replace(GOOD, onnx_error=3e-6)]).split()[-3:] == ["3.0e-06", "-", "-"]


def test_an_output_of_zeros_is_held_against_zero() -> None:
    zeros, ones = torch.zeros(3), torch.ones(3)

    def error(got: Tensor, true: Tensor) -> float:
        return relative_error([ones, got], [ones, true])

    assert error(zeros, zeros) == 0
    assert error(ones, zeros) == float("inf")
    assert error(zeros, ones) == 1


@pytest.mark.parametrize(
    ("field", "value", "differing"),
    [
        ("architecture", "sd15", {"architecture", "architecture_digest", "specs_digest"}),
        ("height", 128, {"height", "specs_digest"}),
        ("width", 128, {"width", "specs_digest"}),
        ("samples", 2, {"samples", "specs_digest"}),
        ("precision", "fp16", {"precision", "specs_digest"}),
    ],
)
def test_manifest_and_folder_of_another_target_differ(field: str, value: object, differing: set[str]) -> None:
    other = replace(TARGET, **{field: value})  # type: ignore[arg-type]
    assert other.folder != TARGET.folder
    one, another = vars(expected_manifest(TARGET, CPU)), vars(expected_manifest(other, CPU))
    assert {name for name in one if one[name] != another[name]} == differing


def test_tuning_is_part_of_the_manifest() -> None:
    assert expected_manifest(TARGET, CPU, Tuning(max_autotune_gemm=True)).tuning["max_autotune_gemm"] is True
    assert expected_manifest(TARGET, CPU).tuning == Tuning().options()


@pytest.mark.gpu
def test_compiled_engines_of_the_small_model(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(cldm.engine_files, "ENGINES", engines)
    assert main("--backend inductor --architecture small --height 64 --width 64".split()) == 0
    load_engine_files(Target("small", 64, 64, 1, "fp16"), torch.device("cuda"))


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_as(monkeypatch, FailingEngine)
    with pytest.raises(BuildError, match="stage text cannot be compiled"):
        main([*COMMAND, "--debug"])
