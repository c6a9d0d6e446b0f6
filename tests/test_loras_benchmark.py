"""The benchmark of LoRAs changes pictures and restores them."""

import pytest

import benchmarks.loras
from benchmarks.loras import main
from tests.arguments import small_contest_request


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.loras, "contest_request", small_contest_request)
    main(["--architecture", "small", "--device", "cpu", "--runs", "1"])
    *_, attention, every = capsys.readouterr().out.splitlines()
    assert attention.startswith("attention")
    assert every.startswith("all layers")
    assert attention.endswith("True, True")
    assert every.endswith("True, True")
    with pytest.raises(SystemExit, match="error: device 'tpu'"):
        main(["--device", "tpu"])
