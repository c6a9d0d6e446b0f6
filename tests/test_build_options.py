"""Command lines that `python -m build` rejects."""

import re

import pytest
import torch

from build.__main__ import main

COMMAND = "--backend inductor --architecture small --height 64 --width 64 --device cpu".split()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--height", "100", "got 100, expected a multiple of 64"),
        ("--width", "0", "got 0, expected a multiple of 64"),
        ("--samples", "0", "got 0, expected a whole number of at least 1"),
        ("--samples", "one", "got one, expected a whole number of at least 1"),
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
        ("--precision", "fp64", "precision 'fp64': expected auto, fp32, fp16 or fp8"),
        ("--precision", "fp16", "precision 'fp16' needs a CUDA device"),
        ("--device", "tpu", "device 'tpu'"),
        ("--prompt-syntax", "compel", "prompt_syntax 'compel': expected plain or webui"),
        ("--prompt-chunks", "2", "prompt_chunks: got 2 with prompt_syntax plain, expected 1"),
    ],
)
def test_bad_choices(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, option, value]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"engines: {message}")


ON_A_GPU = "--architecture small --height 64 --width 64 --device cpu".split()  # for which auto selects inductor


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--check", "--refit"], "got --check with --refit; --check saves no engines .*: leave out --refit"),
        (["--check", "--strict"], "got --check with --strict; --check saves no engines .*: leave out --strict"),
        (["--check", "--force", "--refit"], "leave out --force and --refit"),
        (["--check", "--backend", "inductor"], "got --check with backend inductor, expected backend tensorrt"),
        (
            ["--strict", "--backend", "tensorrt"],
            "--strict has no effect without --plugins: leave it out, or add --plugins",
        ),
        (["--plugins", "--backend", "inductor"], "got --plugins with backend inductor, expected backend tensorrt"),
        (["--target", "sm89", "--backend", "inductor"], "got --target with backend inductor, expected"),
        (["--plugins", *ON_A_GPU], "backend inductor, expected backend tensorrt: leave out --plugins"),
        (["--plugins", "--refit", *ON_A_GPU], "got --plugins and --refit with backend inductor, expected backend"),
    ],
)
def test_options_that_would_be_ignored(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_without_a_gpu_nothing_would_be_refitted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--refit"])
    assert "got --refit with backend eager, expected backend tensorrt" in capsys.readouterr().err
