"""The limit is counted, not guessed; the command measures what it says."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.latency import main
from benchmarks.limit import PER_EVALUATION, Rates, Work, count_work, limit_ms


def test_work_of_the_real_size() -> None:
    """Beside counts made in another way, of the original: its text and hint are computed anew in every evaluation."""
    work = count_work("sd15", 256, 384, torch.float16)
    unet, control = work["encoder"].flops + work["decoder"].flops, work["control"].flops + work["hint"].flops
    assert 0.96 < unet / 0.5488e12 < 1, "less the text's keys and values, and what is computed once for both halves"
    assert 0.89 < control / 0.1912e12 < 0.96, "less these, and one of the two hints"
    assert work["vae"].flops == pytest.approx(0.9349e12, rel=1e-3)
    assert sum(work[name].bytes for name in PER_EVALUATION) == pytest.approx(2.44e9, rel=0.04)


def test_each_stage_takes_as_long_as_the_slower_of_its_needs() -> None:
    work = {"control": Work(flops=100, bytes=10), "vae": Work(flops=10, bytes=500)}
    assert limit_ms(work, Rates(flops_per_s=100, bytes_per_s=100), 3) == 1000 * (3 * 1 + 5)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "latency.json"
    main(["--architecture", "small", "--plan", "19", "--runs", "1", "--device", "cpu", "--peers", "--out", str(out)])
    report = json.loads(out.read_text())
    base, ours = report["rows"]
    assert (base["precision"], ours["precision"], ours["max_difference"]) == ("fp32", "fp32", 0)
    (detail,) = report["details"]
    assert detail["evaluations"] == 1
    assert all(detail["stages_ms"][name] > 0 for name in ("text", "hint", *PER_EVALUATION, "vae"))
    assert (detail["graph_ms"], detail["limit_ms"], report["rates"]) == (None, None, None)
    assert "ours, eager (fp32)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: plan 'most'"):
        main(["--architecture", "small", "--plan", "most", "--runs", "1", "--device", "cpu", "--peers"])
