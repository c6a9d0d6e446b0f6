"""Only complete engine files that match are loaded. For others, one sentence lists the differences and the command."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import cldm.engine_files
from cldm.engine_files import Target, _title, find_engines
from reading import shown
from runtime.artifacts import ARTIFACTS, MANIFEST, EngineFileError, Manifest, load, read, save
from runtime.machine import machine

DATA = b"kernels"
COMMAND = "python -m build --backend inductor"
FACTS = {
    "backend": "inductor",
    "height": 256,
    "capability": ["9.0"],
    "torch": "2.11.0",
    "tuning.conv_1x1_as_mm": False,
}
EXPECTED = Manifest(FACTS, COMMAND, {"checkpoint": "a.pth"})


def expecting(**facts: object) -> Manifest:
    return replace(EXPECTED, facts={**FACTS, **facts})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write valid engine files and return their folder."""
    save(tmp_path / "engines" / "key", DATA, EXPECTED)
    return tmp_path / "engines" / "key"


def refusal(folder: Path, expected: Manifest = EXPECTED) -> str:
    """Return the error message of `read` without its constant beginning and end."""
    with pytest.raises(EngineFileError) as caught:
        read(folder, expected)
    message = str(caught.value)
    assert message.isprintable()
    beginning = f"engine files {folder}: "
    assert message.startswith(beginning)
    end = f"; build them with {COMMAND}"
    assert message.endswith(end)
    return message[len(beginning) : -len(end)]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    change(values)
    (folder / MANIFEST).write_text(json.dumps(values))


def test_saved_files_are_read_again(folder: Path) -> None:
    assert read(folder, EXPECTED) == DATA
    assert sorted(path.name for path in folder.iterdir()) == [ARTIFACTS, MANIFEST]
    assert json.loads((folder / MANIFEST).read_text())["size"] == len(DATA)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_missing(folder: Path) -> None:
    assert refusal(folder.parent / "other") == "the folder does not exist"
    (folder / ARTIFACTS).unlink()
    assert refusal(folder) == "artifacts.bin is missing"
    (folder / MANIFEST).unlink()
    assert refusal(folder) == "manifest.json is missing"


def test_unreadable(folder: Path) -> None:
    (folder / ARTIFACTS).unlink()
    (folder / ARTIFACTS).mkdir()
    assert refusal(folder) == "artifacts.bin cannot be read (Is a directory)"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "manifest.json is not valid JSON ("),
        (b'{"backend": "induc', "manifest.json is not valid JSON ("),
        (b"\xff\xfe", "manifest.json is not valid JSON ("),
        (b"[" * 100_000, "manifest.json is not valid JSON (nested too deeply)"),
        (b'{"size": 1, "size": 2}', "manifest.json is not valid JSON (the key 'size' is given twice)"),
        (b"[]", "manifest.json is not a JSON object"),
        (b"{}", "manifest.json lacks the field 'backend'"),
        (b'{"newer": 1}', "manifest.json has the unknown field 'newer'"),
    ],
    ids=range(8),
)
def test_damaged_manifest(folder: Path, content: bytes, what: str) -> None:
    (folder / MANIFEST).write_bytes(content)
    assert refusal(folder).startswith(what)


@pytest.mark.parametrize("size", [None, "7", [7], 10**90, {"size": 7}, 8])
def test_another_size(folder: Path, size: object) -> None:
    rewrite(folder, lambda values: values.update(size=size))
    assert refusal(folder) == f"artifacts.bin has 7 bytes, expected {shown(size)}"
    rewrite(folder, lambda values: values.update(size=7, sha256=size))
    assert "its SHA-256 differs" in refusal(folder)


def test_pipes_are_not_read(folder: Path) -> None:
    for name, what in ((ARTIFACTS, "is a pipe"), (MANIFEST, "cannot be read (it is not a regular file)")):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert refusal(folder) == f"{name} {what}"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("backend", "inductorx"),
        ("height", 257),
        ("height", "256"),
        ("capability", ["8.9"]),
        ("capability", "9.0"),
        ("capability", None),
        ("torch", "2.12.0"),
        ("tuning.conv_1x1_as_mm", True),
        ("tuning.conv_1x1_as_mm", 0),
    ],
)
def test_each_fact_that_differs_is_named(folder: Path, name: str, other: object) -> None:
    rewrite(folder, lambda values: values.update({name: other}))
    assert refusal(folder) == f"{name} is {other!r}, expected {FACTS[name]!r}"


def test_all_facts_that_differ_are_named(folder: Path) -> None:
    rewrite(folder, lambda values: values.update(torch="2.12.0", height="256"))
    assert refusal(folder) == "height is '256', expected 256, torch is '2.12.0', expected '2.11.0'"


@pytest.mark.parametrize("built", [True, False])
def test_a_fact_that_may_be_anything(folder: Path, built: bool) -> None:
    rewrite(folder, lambda values: values.update({"tuning.conv_1x1_as_mm": built}))
    assert read(folder, expecting(**{"tuning.conv_1x1_as_mm": None})) == DATA


def test_made_for_several_gpus(folder: Path) -> None:
    rewrite(folder, lambda values: values.update(capability=["8.9", "9.0"]))
    assert read(folder, EXPECTED) == DATA
    assert read(folder, expecting(capability=["8.9", "9.0"])) == DATA
    assert "capability is" in refusal(folder, expecting(capability=["8.9", "12.0"]))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (DATA[:-1], "artifacts.bin has 6 bytes, expected 7"),
        (b"", "artifacts.bin has 0 bytes, expected 7"),
        (b"Kernels", "artifacts.bin is damaged: its SHA-256 differs from the one in manifest.json"),
    ],
)
def test_truncated_or_altered_artifacts_never_reach_torch(
    folder: Path, content: bytes, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(data: bytes) -> None:
        raise AssertionError("these bytes were given to PyTorch")

    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", reached)
    (folder / ARTIFACTS).write_bytes(content)
    assert refusal(folder) == what
    with pytest.raises(EngineFileError, match=what):
        load(folder, EXPECTED)


@pytest.mark.parametrize("field", ["size", "sha256"])
def test_a_manifest_without_check_is_refused(folder: Path, field: str) -> None:
    rewrite(folder, lambda values: values.update({field: None}))
    assert refusal(folder).startswith("artifacts.bin ")


def test_artifacts_that_torch_cannot_read(folder: Path) -> None:
    """The checksum matches, but PyTorch does not know the format."""
    with pytest.raises(EngineFileError, match=r"engine files .*: PyTorch cannot read artifacts\.bin.*; build them"):
        load(folder, EXPECTED)


def test_notes_are_for_readers(folder: Path) -> None:
    assert json.loads((folder / MANIFEST).read_text())["checkpoint"] == "a.pth"
    assert read(folder, replace(EXPECTED, notes={"checkpoint": "elsewhere.pth"})) == DATA


def test_machine_is_part_of_a_manifest() -> None:
    values = machine(torch.device("cpu"))
    assert values["device"] == "cpu"
    assert values["torch"] == torch.__version__
    assert json.loads(json.dumps(values)) == values
    assert values["capability"] == [torch.backends.cpu.get_cpu_capability()]
    assert all(values.values())


def test_save_replaces_and_cleans_up(folder: Path) -> None:
    leftover = folder.parent / f".{folder.name}.killed"
    leftover.mkdir()
    (leftover / ARTIFACTS).write_bytes(b"half")
    other = folder.parent / ".another.running"
    other.mkdir()
    save(folder, b"new", EXPECTED)
    assert read(folder, EXPECTED) == b"new"
    assert sorted(path.name for path in folder.parent.iterdir()) == [".another.running", ".lock", "key"]


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_stops_half_way_leaves_the_good_files(
    folder: Path, stop: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def stopping(path: Path, content: bytes) -> int:
        if path.name == MANIFEST:
            write(path, content[:10])
            raise stop
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", stopping)
    with pytest.raises(type(stop)) as caught:
        save(folder, b"new", EXPECTED)
    if isinstance(stop, OSError):
        assert str(caught.value).startswith(f"{folder} cannot be written (No space left on device)")
    assert read(folder, EXPECTED) == DATA
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", "key"]


def test_a_killed_save_is_never_taken_for_engines(folder: Path) -> None:
    """Kill a process during a save; here the process is a child that exits without any cleanup."""
    if (child := os.fork()) == 0:
        try:
            Path.rename = lambda path, target: os._exit(9)  # type: ignore[method-assign, assignment]
            save(folder, b"new", EXPECTED)
        finally:
            os._exit(1)  # the child must not continue with the tests
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert read(folder, EXPECTED) == DATA
    assert len(list(folder.parent.glob(".key.*"))) == 2
    save(folder, b"newer", EXPECTED)
    assert read(folder, EXPECTED) == b"newer"
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", "key"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        save(tmp_path / "file" / "key", DATA, EXPECTED)


def test_artifacts_that_hold_no_engines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stub in {
        "check_device": lambda device: None,
        "expected_manifest": lambda target, device: EXPECTED,
        "read": lambda folder, expected: DATA,
    }.items():
        monkeypatch.setattr(cldm.engine_files, name, stub)
    target = Target("small", 64, 64, 1, "fp32", "tensorrt")
    with pytest.raises(EngineFileError, match=r"artifacts\.bin holds no TensorRT engines; build them with python -m"):
        find_engines(target, torch.device("cpu"))


@pytest.mark.parametrize("built", [None, 3, ["TensorRT 10"], {}, "TensorRT for RTX 1.7"])
def test_the_title_of_a_manifest(folder: Path, built: object) -> None:
    rewrite(folder, lambda values: values.update(tensorrt=built))
    assert _title(folder) == ("TensorRT for RTX" if isinstance(built, str) else "")
    (folder / MANIFEST).write_bytes(b"[" * 100_000)
    assert _title(folder) == ""
