"""The benchmark of LoRAs changes pictures and restores them."""

import pytest

from benchmarks.loras import main


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--architecture", "small", "--device", "cpu", "--runs", "1"])
    *_, attention, every = capsys.readouterr().out.splitlines()
    assert attention.startswith("attention")
    assert every.startswith("all layers")
    assert attention.endswith("True, True")
    assert every.endswith("True, True")
    with pytest.raises(SystemExit, match="error: device 'tpu'"):
        main(["--device", "tpu"])
