"""The table of the start: every step exists, is recorded in its thread, and nests."""

import pkgutil
import re
import threading

import pytest

from benchmarks.startup import STEPS, Recorder, main, since_start


def test_steps_are_functions_of_this_project() -> None:
    for name in STEPS:
        assert callable(pkgutil.resolve_name(name))


def test_steps_of_two_threads() -> None:
    recorder = Recorder()
    inner = recorder.recorded(lambda word: word, "first {0}")
    outer = recorder.recorded(lambda: [inner("a"), inner("b"), inner("a")], "outer")
    assert outer() == ["a", "b", "a"]
    thread = threading.Thread(target=outer, name="other")
    thread.start()
    thread.join()
    main_steps = [(step.name, step.depth) for step in recorder.steps["MainThread"]]
    assert main_steps == [("outer", 0), ("first a", 1), ("first b", 1)]
    assert [step.name for step in recorder.steps["other"]] == ["outer"]
    assert all(0 < step.start <= step.end <= since_start() for steps in recorder.steps.values() for step in steps)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--backend", "eager"])
    table = capsys.readouterr().out
    for step in ("initialize()", "tokenizer", "weights", "pipeline, graph and first picture"):
        assert re.search(rf"^\| MainThread \| (&nbsp;)*{re.escape(step)} \| [\d.]+ \| [\d.]+ \|$", table, re.M)
    assert re.search(r"^Python compiled \d+ modules in [\d.]+ s$", table, re.M)
