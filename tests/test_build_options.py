"""What `python -m build` refuses of its command line."""

import pytest

from build.__main__ import main

COMMAND = "--backend inductor --architecture small --height 64 --width 64 --device cpu".split()


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
