"""python -m benchmarks.plans, on a network small enough to take seconds."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from benchmarks.plan_methods import TWO_TAPS
from benchmarks.plan_results import ON_ENGINES, TIMED, Result, Timed, load, save, tables
from benchmarks.plans import main
from plans.folds import Measured
from plans.plan import Plan
from scoring.leaderboard import leaderboard_score
from scoring.plan_figures import distances_by_time
from tests.test_build_plans import use_small_pictures

COMMAND = "--checkpoint random:0 --architecture tiny --device cpu --beam 1 --calls 2 4 --detailed 4 --runs 1".split()
COMMAND += "--fitted 1 --judged 1 --reported 2 --drawn 1".split()
METHODS = {"DDIM, fewer steps", "even steps, held", "searched, held", TWO_TAPS, ON_ENGINES}

TWO = Plan(20, (19, 9), ((1.0, 0.0), (1.1, -0.1)))
NONE = Measured([], [], [])


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None) -> None:
    use_small_pictures(tmp_path, monkeypatch)


def test_all_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*COMMAND, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "plans.json").read_text())
    errors = {(one["method"], one["calls"]): one for one in found["results"]}
    names = {name for name, _ in errors}
    assert names == METHODS, "no published plan: it has ten evaluations, and this run has 2 and 4"
    for one in found["results"]:
        assert len(one["measured"]["latent"]) == 2
        assert len(one["measured"]["pd"]) == len(one["measured"]["ssim"]) == 1
        assert 0 < min(one["measured"]["latent"]) < max(one["measured"]["latent"]) < 100
        assert (one["timed"] is not None) == (one["method"] in TIMED)
    by_probe, by_process = (errors[name, 4]["measured"]["latent"] for name in (TWO_TAPS, ON_ENGINES))
    assert by_process == pytest.approx(by_probe, rel=1e-3)
    assert (ON_ENGINES, 2) not in errors
    assert found["moves of eps"].keys() == {str(index) for index in range(19)}
    printed = capsys.readouterr().out
    assert (tmp_path / "plans.md").read_text() in printed
    for figure in ("plans.png", "times.png", "moves.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")


def test_stopped_comparison_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def ways(*arguments: object) -> dict[str, Callable[[int], Plan]]:
        def way(name: str, plan: Plan, n: int) -> Plan:
            asked.append((name, n))
            if name == "third" and asked.count(("third", 2)) == 1:
                raise ValueError("stopped")
            return plan

        plans = {"first": Plan(20, (19, 9)), TWO_TAPS: Plan(20, (19, 7), ((1, 0), (1.2, -0.2))), "third": TWO}
        return {name: partial(way, name, plan) for name, plan in plans.items()}

    monkeypatch.setattr("benchmarks.plans.methods", ways)
    command = [*COMMAND, "--calls", "2", "--detailed", "2", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="error: stopped"):
        main(command)
    main(command)
    assert asked == [("first", 2), (TWO_TAPS, 2), ("third", 2), ("third", 2)]
    found = json.loads((tmp_path / "plans.json").read_text())
    assert [one["method"] for one in found["results"]] == ["first", TWO_TAPS, "third", ON_ENGINES]
    assert load(tmp_path / "plans.json", found["asked"]) == [], "a complete comparison was resumed"


def test_only_results_of_the_same_settings_are_reused(tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    results = [Result("one", 2, Measured([0.1], [1.0], [0.9]), TWO), Result("two", 2, NONE)]
    assert load(file, {}) == []
    save(file, {"beam": 2}, results)
    assert load(file, {"beam": 2}) == results
    assert load(file, {"beam": 3}) == []
    for damaged in (file.read_text()[:-20], "{}", "[]"):
        file.write_text(damaged)
        with pytest.raises(
            ValueError, match=r"plans\.json does not contain results of this comparison .*; delete it, or choose"
        ):
            load(file, {"beam": 2})


def test_tables() -> None:
    results = [
        Result("one", 4, Measured([0.1, 0.4], [1.0, 3.0], [0.9, 0.8])),
        Result(TWO_TAPS, 4, Measured([0.2, 0.2], [2.0, 2.0], [0.7, 0.7]), timed=Timed(12.5, 321)),
        Result(TWO_TAPS, 5, Measured([0.1, 0.1], [2.0, 2.0], [0.7, 0.7])),
        Result(ON_ENGINES, 4, Measured([0.05, 0.2], [2.0, 2.0], [0.7, 0.7])),
    ]
    lines = tables(results, [4], "PD*").splitlines()
    assert "| one | 0.2000 |  |" in lines
    assert "| searched, two taps | 0.2000 | 0.1000 |" in lines
    assert "| ms: searched, two taps | 12.50 |  |" in lines
    assert "| graph nodes: searched, two taps | 321 |  |" in lines
    assert "| one | 0.2500 | 0.2500 | 0.3700 | 0.4000 | 50% | 2.0000 | 0.8500 |" in lines
    assert "| searched, two taps | 0.2000 | 0.2000 | 0.2000 | 0.2000 | 50% | 2.0000 | 0.7000 |" in lines
    assert not any(line.startswith("| 5 evaluations") for line in lines)


def test_wrong_choice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: device 'tpu'"):
        main([*COMMAND[:4], "--device", "tpu", "--out", str(tmp_path)])


@pytest.mark.parametrize("metric", ["PD", "PD*"])
def test_score_contours_are_drawn_for_pd_only(metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = Mock(wraps=leaderboard_score)
    monkeypatch.setattr("scoring.plan_figures.leaderboard_score", scores)
    distances_by_time({"one": [(180.0, 7.5), (260.0, 4.8)]}, metric, tmp_path / "times.png")
    assert bool(scores.call_count) == (metric == "PD")
