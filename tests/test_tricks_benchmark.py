"""Leaving out a trick changes the time of a picture, not the picture."""

import json
from pathlib import Path

import pytest

import benchmarks.tricks
from benchmarks.left_out import LEFT_OUT, NOTHING
from benchmarks.tricks import main
from tests.arguments import small_contest_request

SMALL = ["--architecture", "small", "--plan", "19,4", "--runs", "1", "--device", "cpu"]


def test_pictures_without_each_trick(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.tricks, "contest_request", small_contest_request)
    out = tmp_path / "tricks.json"
    main([*SMALL, "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["left_out"] for row in rows] == [name for name, one in LEFT_OUT.items() if not one.compiled]
    assert all(row["psnr_db"] is None or row["psnr_db"] > 60 for row in rows), rows
    whole = rows[0]
    assert (whole["left_out"], whole["saved_ms"]) == (NOTHING, 0)
    assert "| hint_once |" in capsys.readouterr().out


def test_no_kernel_starts_early() -> None:
    with LEFT_OUT["early launch"].patch() as launch_early:
        assert launch_early(object(), ("a kernel",)) == 0


def test_trick_of_compiled_engines_on_the_cpu() -> None:
    with pytest.raises(SystemExit, match="error: trick 'group_norm' on cpu: expected one of nothing, two streams"):
        main([*SMALL, "group_norm"])
