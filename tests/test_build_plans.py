"""python -m build plans, on a network so small that it takes seconds."""

import shutil
from pathlib import Path

import pytest

import plans.files
import plans.requests
from build.__main__ import main
from build.plans import even, summary
from files import locked
from plans.files import choose_plan, read_plan
from plans.requests import FOLDS, make_requests
from scoring.pictures import DRAWN_BIRDS

COMMAND = "plans --checkpoint random:0 --architecture tiny --device cpu --beam 1".split()
COMMAND += "--fitted 1 --judged 1 --reported 2".split()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None) -> None:
    use_small_pictures(tmp_path, monkeypatch)


def use_small_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use pictures of 64x96 pixels and an empty folder for plans."""
    monkeypatch.setattr(plans.files, "PLANS", tmp_path / "plans")
    monkeypatch.setattr(plans.requests, "RESOLUTION", 64)


def write_pictures(folder: Path, count: int) -> None:
    """Write birds with captions, in the format of `python -m training.pictures`."""
    for i in range(count):
        shutil.copy(DRAWN_BIRDS / f"bird_{i + 1}.png", folder / f"scene_{i}.png")
        (folder / f"scene_{i}.txt").write_text(f"bird number {i}\n")


def test_plans_are_found_written_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--calls", "2", "3", "--thorough"]) == 0
    assert "tiny_2.json" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "plans").iterdir()) == ["tiny_2.json", "tiny_3.json"]
    file = read_plan(tmp_path / "plans" / "tiny_3.json")
    assert choose_plan("3", 20, "tiny") == file.plan
    assert len(file.plan.evaluated) == len(file.plan.taps) == 3
    errors = file.made["latent error, report fold"]
    assert errors["this plan"]["geometric mean"] < errors["even, held"]["geometric mean"]
    assert file.distance
    assert file.distance.metric == "PD*"
    assert file.distance.mean > 0

    (tmp_path / "plans" / "tiny_3.json").unlink()
    kept = (tmp_path / "plans" / "tiny_2.json").stat().st_mtime_ns
    assert main([*COMMAND, "--calls", "2", "3", "--taps", "0"]) == 0
    assert read_plan(tmp_path / "plans" / "tiny_3.json").plan.taps == (), "held eps has no taps"
    assert (tmp_path / "plans" / "tiny_2.json").stat().st_mtime_ns == kept


def test_nothing_is_done_where_all_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "tiny_2.json").touch()
    assert main([*COMMAND, "--calls", "2"]) == 0
    assert "plans: all exist in" in capsys.readouterr().out


def test_a_second_search_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / "plans" / "tiny_0.lock", ""):
        assert main([*COMMAND, "--calls", "2"]) == 1
    assert "plans/tiny_0.lock is locked by process" in capsys.readouterr().err


def test_folds_share_neither_picture_nor_prompt_nor_seed() -> None:
    folds = [make_requests(fold, 6, None) for fold in FOLDS]
    for kind in (lambda one: one.source.tobytes(), lambda one: one.prompt, lambda one: one.seed):
        seen = [{kind(one) for one in fold} for fold in folds]
        assert not seen[0] & seen[1]
        assert not seen[2] & (seen[0] | seen[1])
        assert all(len(values) > 1 for values in seen)


def test_pictures_bring_their_captions_and_those_with_one_share_a_fold(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    for fold, i in zip(FOLDS, range(3), strict=True):
        (asked,) = make_requests(fold, 1, tmp_path)
        assert asked.prompt == (tmp_path / f"scene_{i}.txt").read_text().strip()
    (tmp_path / "scene_1.txt").write_text("a caption of two pictures")
    (tmp_path / "scene_2.txt").write_text("a caption of two pictures")
    assert len({one.source.tobytes() for one in make_requests("selection", 4, tmp_path)}) == 2
    with pytest.raises(
        ValueError, match=r"got 2 \(equal captions count once\), too few for 3 disjoint folds; .* different captions"
    ):
        make_requests("report", 1, tmp_path)
    (tmp_path / "scene_1.txt").unlink()
    with pytest.raises(ValueError, match=r"scene_1 has no caption file scene_1\.txt, but others"):
        make_requests("report", 1, tmp_path)


def test_too_few_pictures_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path, 2)
    assert main([*COMMAND, "--calls", "2", "--pictures", str(tmp_path)]) == 1
    assert "plans: pictures: got 2 (equal captions count once), too few for 3 disjoint folds" in capsys.readouterr().err


def test_even_steps() -> None:
    assert even(20) == tuple(range(20))[::-1]
    assert even(10) == tuple(range(19, 0, -2))
    assert even(1) == (19,)


def test_summary() -> None:
    assert summary([0.1, 0.1, 0.1]) == {"geometric mean": 0.1, "median": 0.1, "90th percentile": 0.1}
    assert summary([0.5])["90th percentile"] == 0.5
