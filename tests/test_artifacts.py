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
import runtime.artifacts
from cldm.engine_files import Target, _title, find_engines
from cldm.stages import STAGES
from reading import shown
from runtime.artifacts import FILE, KERNELS, EngineFileError, Manifest, pack, read, read_manifest, read_stages, save
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
    values = read_manifest(folder)
    change(values)
    write(folder, json.dumps(values, indent=2).encode())


def write(folder: Path, manifest: bytes, data: bytes = DATA) -> None:
    (folder / FILE).write_bytes(manifest + b"\n\n" + data)


def test_saved_files_are_read_again(folder: Path) -> None:
    assert read(folder, EXPECTED) == DATA
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert read_manifest(folder)["size"] == len(DATA)
    assert (folder / FILE).stat().st_mode & 0o777 == 0o644


def test_missing(folder: Path) -> None:
    assert refusal(folder.parent / "other") == "the folder does not exist"
    (folder / FILE).unlink()
    assert refusal(folder) == "engines.bin is missing"


def test_unreadable(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / FILE).mkdir()
    assert refusal(folder) == "engines.bin cannot be read (Is a directory)"
    with pytest.raises(OSError, match=rf"{folder / FILE} cannot be written \(it is a folder\); choose the name"):
        save(folder, DATA, EXPECTED)


def test_files_of_earlier_versions_are_refused_and_replaced(tmp_path: Path) -> None:
    """Earlier versions wrote two files; a runtime then added the kernels that it compiled from them."""
    for name in ("artifacts.bin", "manifest.json", KERNELS):
        (tmp_path / name).write_bytes(DATA)
    assert refusal(tmp_path) == "engines.bin is missing"
    save(tmp_path, DATA, EXPECTED)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is not valid JSON ("),
        (b'{"backend": "induc', "is not valid JSON ("),
        (b"\xff\xfe", "is not valid JSON ("),
        (b"[" * 100_000, "is not valid JSON (nested too deeply)"),
        (b'{"size": 1, "size": 2}', "is not valid JSON (the key 'size' is given twice)"),
        (b"[]", "is not a JSON object"),
        (b"{}", "lacks the field 'backend'"),
        (b'{"newer": 1}', "has the unknown field 'newer'"),
    ],
    ids=range(8),
)
def test_damaged_manifest(folder: Path, content: bytes, what: str) -> None:
    write(folder, content)
    assert refusal(folder).startswith(f"the manifest of engines.bin {what}")


@pytest.mark.parametrize("size", [None, "7", [7], 10**90, {"size": 7}, 8])
def test_another_size(folder: Path, size: object) -> None:
    rewrite(folder, lambda values: values.update(size=size))
    assert refusal(folder) == f"engines.bin has 7 bytes of artifacts, expected {shown(size)}"
    rewrite(folder, lambda values: values.update(size=7, sha256=size))
    assert "the SHA-256 of its artifacts differs" in refusal(folder)


def test_a_pipe_is_not_read(folder: Path) -> None:
    (folder / FILE).unlink()
    os.mkfifo(folder / FILE)
    assert refusal(folder) == "engines.bin is a pipe"


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
        (DATA[:-1], "engines.bin has 6 bytes of artifacts, expected 7"),
        (b"", "engines.bin has 0 bytes of artifacts, expected 7"),
        (b"Kernels", "engines.bin is damaged: the SHA-256 of its artifacts differs from its manifest"),
        (b"\n\n" + DATA, "engines.bin has 9 bytes of artifacts, expected 7"),
    ],
)
def test_truncated_or_altered_artifacts_are_never_used(
    folder: Path, content: bytes, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(data: bytes) -> None:
        raise AssertionError("these bytes were used")

    monkeypatch.setattr("safetensors.numpy.load", reached)
    write(folder, json.dumps(read_manifest(folder)).encode(), content)
    assert refusal(folder) == what
    with pytest.raises(EngineFileError, match=what):
        read_stages(folder, EXPECTED, [])


@pytest.mark.parametrize("field", ["size", "sha256"])
def test_a_manifest_without_check_is_refused(folder: Path, field: str) -> None:
    rewrite(folder, lambda values: values.update({field: None}))
    assert refusal(folder).startswith("engines.bin ")


def test_notes_are_for_readers(folder: Path) -> None:
    assert read_manifest(folder)["checkpoint"] == "a.pth"
    assert read(folder, replace(EXPECTED, notes={"checkpoint": "elsewhere.pth"})) == DATA


def test_machine_is_part_of_a_manifest() -> None:
    values = machine(torch.device("cpu"))
    assert values["device"] == "cpu"
    assert values["torch"] == torch.__version__
    assert json.loads(json.dumps(values)) == values
    assert values["capability"] == [torch.backends.cpu.get_cpu_capability()]
    assert all(values.values())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (DATA, r"engines\.bin holds no engines"),
        (pack({stage: b"1" for stage in STAGES if stage != "vae"}), r"engines\.bin lacks vae"),
    ],
)
@pytest.mark.parametrize("backend", ["inductor", "tensorrt"])
def test_artifacts_without_all_engines(
    data: bytes, sentence: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, stub in {
        "check_device": lambda device: None,
        "expected_manifest": lambda target, device: EXPECTED,
    }.items():
        monkeypatch.setattr(cldm.engine_files, name, stub)
    monkeypatch.setattr(runtime.artifacts, "read", lambda folder, expected: data)
    target = Target("small", 64, 64, 1, "fp32", backend)
    with pytest.raises(EngineFileError, match=f"{sentence}; build them with python -m"):
        find_engines(target, torch.device("cpu"))


@pytest.mark.parametrize("built", [None, 3, ["TensorRT 10"], {}, "TensorRT for RTX 1.7"])
def test_the_title_of_a_manifest(folder: Path, built: object) -> None:
    rewrite(folder, lambda values: values.update(tensorrt=built))
    assert _title(folder) == ("TensorRT for RTX" if isinstance(built, str) else "")
    write(folder, b"[" * 100_000)
    assert _title(folder) == ""
