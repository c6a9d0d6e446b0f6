import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scoring.contact_sheet import contact_sheet
from scoring.leaderboard import leaderboard_score
from scoring.report import PictureScore, Report

COLOURS = {"input": (200, 40, 40), "canny": (40, 200, 40), "base": (40, 40, 200), "candidate": (200, 200, 40)}


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Return a report on three pictures: the first call is slow, the second picture is identical to its base."""
    paths: dict[str, Any] = {f"{name}_path": tmp_path / f"{name}.png" for name in COLOURS}
    for name, colour in COLOURS.items():
        Image.new("RGB", (384, 256), colour).save(tmp_path / f"{name}.png")
    numbers = [(5.0, 0.5, 15.0, 900.0), (0.0, 1.0, math.inf, 190.0), (7.0, 0.6, 17.0, 210.0)]
    scores = [PictureScore(f"bird_{i}", *number, **paths) for i, number in enumerate(numbers)]
    return Report(scores, "PD", "some GPU", {"steps": 20, "scale": math.nan, "folder": tmp_path})


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def strict_json(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=refuse)


def test_only_the_mean_latency_excludes_the_first_call(report: Report) -> None:
    assert report.mean_latency_ms == 200
    assert report.mean_pd == 4
    assert report.mean_ssim == pytest.approx(0.7)
    assert report.mean_psnr == math.inf
    assert "excludes the first call" in report.text()
    single = replace(report, scores=report.scores[:1])
    assert single.mean_latency_ms == 900
    assert "first call" not in single.text()


def test_leaderboard_score_is_for_the_real_distance_only(report: Report) -> None:
    assert report.leaderboard_score == leaderboard_score(200, 4)
    assert f"leaderboard score {report.leaderboard_score:.4f}" in report.text()
    assert "this machine's latency; the contest used an A10" in report.text()
    seeded = replace(report, metric_name="PD*")
    assert seeded.leaderboard_score is None
    assert "leaderboard" not in seeded.text()
    assert "PD* is not the contest's PD" in seeded.text()
    assert "leaderboard_score" not in seeded.as_json()


def test_text_is_an_aligned_table(report: Report) -> None:
    header, *rows = replace(report, metric_name="PD*").text().splitlines()[:6]
    assert header.split() == ["picture", "PD*", "SSIM", "PSNR", "dB", "ms"]
    assert {len(row) for row in rows} == {len(header)}
    assert rows[1].split() == ["bird_1", "0.0000", "1.0000", "inf", "190.000"]
    assert rows[-1].split() == ["mean", "4.0000", "0.7000", "inf", "200.000"]


def test_json_is_strict_and_complete(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "report.json"
    report.save_json(path)
    data = strict_json(path)
    assert data["pictures"][1] == {"name": "bird_1", "PD": 0.0, "ssim": 1.0, "psnr_db": "inf", "latency_ms": 190.0}
    assert float(data["pictures"][1]["psnr_db"]) == math.inf
    assert data["means"]["latency_ms"] == 200
    assert data["settings"] == {"steps": 20, "scale": "nan", "folder": str(tmp_path)}
    assert data["leaderboard_score"] == report.leaderboard_score
    assert data["notes"] == report.notes
    assert [file.name for file in path.parent.iterdir()] == ["report.json"], "a temporary file was left"


def test_json_never_calls_seeded_features_pd(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    replace(report, metric_name="PD*").save_json(path)
    assert all("PD*" in picture and "PD" not in picture for picture in strict_json(path)["pictures"])


def test_a_failed_write_keeps_the_old_file(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out" / "report.json"
    report.save_json(path)
    before = path.read_bytes()

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("files.os.replace", disk_full)
    with pytest.raises(OSError, match="No space left on device"):
        replace(report, device="another").save_json(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.json"], "a temporary file was left"


def test_error_names_a_folder_that_cannot_be_written(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for write in (report.save_json, lambda path: contact_sheet(report, path)):
        with pytest.raises(OSError, match=r"file/out cannot be written .*; a file is in its place .* choose another"):
            write(tmp_path / "file" / "out")


def test_a_report_needs_a_picture() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        Report([], "PD", "some GPU")


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_contact_sheet_shows_every_picture_in_its_column(report: Report, tmp_path: Path, scale: float) -> None:
    contact_sheet(report, tmp_path / "sheet.png", scale)
    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    left = []
    for colour in COLOURS.values():
        found = (sheet == colour).all(axis=-1)
        assert found.sum() == len(report.scores) * round(384 * scale) * round(256 * scale)
        left.append(int(found.any(axis=0).argmax()))
    assert left == sorted(left)


def test_contact_sheet_fits_a_picture_of_another_shape(report: Report, tmp_path: Path) -> None:
    contact_sheet(report, tmp_path / "before.png")
    Image.new("RGB", (100, 400), COLOURS["input"]).save(report.scores[0].input_path)
    contact_sheet(report, tmp_path / "after.png")
    before, after = (Image.open(tmp_path / f"{name}.png") for name in ("before", "after"))
    assert after.size == before.size
    found = (np.array(after) == COLOURS["input"]).all(axis=-1)
    assert found.sum() == len(report.scores) * 64 * 256


def test_contact_sheet_shows_whether_the_distance_is_real(report: Report, tmp_path: Path) -> None:
    sheets = []
    for metric_name in ("PD", "PD*"):
        contact_sheet(replace(report, metric_name=metric_name), tmp_path / "sheet.png", 0.5)
        sheets.append(np.array(Image.open(tmp_path / "sheet.png")))
    differs = (sheets[0] != sheets[1]).any(axis=(1, 2))
    height, margin = len(differs), 48
    assert differs[:margin].sum() == 0
    assert differs[margin : margin + 40].any(), "no leaderboard score in the header"
    assert differs[height - margin - 30 :].any(), "no note in the footer"


def test_contact_sheet_rejects_an_absurd_scale(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scale: got 10, expected"):
        contact_sheet(report, tmp_path / "sheet.png", 10)


@pytest.mark.parametrize("name", ["pd", "ssim", "psnr", "latency_ms"])
def test_scores_that_are_not_finite_are_refused(report: Report, name: str) -> None:
    for value in (math.nan, -math.inf, *((math.inf,) if name != "psnr" else ())):
        wrong: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=rf"scores: bird_0: {name} is {value}, expected a finite number"):
            replace(report, scores=[replace(report.scores[0], **wrong)])
