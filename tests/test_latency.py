"""The roofline limit computed from counted work, and the latency command."""

import json
from pathlib import Path

import pytest
import torch

import benchmarks.latency
from benchmarks.latency import main
from benchmarks.limit import PER_EVALUATION, Rates, Work, count_work, limit_ms
from tests.arguments import small_contest_request


def test_counted_work_at_the_real_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with independent counts of the original, which recomputes text and hint in every evaluation."""
    with_phases = count_work("sd15", 256, 384, torch.float16)
    monkeypatch.setattr("benchmarks.limit.upsample_in_phases", lambda model: None)
    work = count_work("sd15", 256, 384, torch.float16)
    unet, control = work["encoder"].flops + work["decoder"].flops, work["control"].flops + work["hint"].flops
    assert 0.96 < unet / 0.5488e12 < 1, "expected a little less: no text keys and values, and shared work counted once"
    assert 0.89 < control / 0.1912e12 < 0.96, "expected a little less, as above, and one hint instead of two"
    assert work["vae"].flops == pytest.approx(0.9349e12, rel=1e-3)
    assert sum(work[name].bytes for name in PER_EVALUATION) == pytest.approx(2.44e9, rel=0.04)
    saved = {name: work[name].flops - with_phases[name].flops for name in work}
    assert saved == dict.fromkeys(work, 0) | {
        "decoder": saved_flops(2, 640, 16, 24),
        "vae": saved_flops(1, 512, 32, 48) + saved_flops(1, 512, 64, 96) + saved_flops(1, 256, 128, 192),
    }


def saved_flops(n: int, channels: int, h: int, w: int) -> int:
    """Return the operations that the phases of n small maps save: 2x2 kernels for one row and column more."""
    return 2 * n * channels**2 * (9 * 2 * h * 2 * w - 4 * 4 * (h + 1) * (w + 1))


def test_limit_of_a_stage_is_the_slower_of_compute_and_memory() -> None:
    work = {"control": Work(flops=100, bytes=10), "vae": Work(flops=10, bytes=500)}
    assert limit_ms(work, Rates(flops_per_s=100, bytes_per_s=100), 3) == 1000 * (3 * 1 + 5)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.latency, "contest_request", small_contest_request)
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
