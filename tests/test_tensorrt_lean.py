"""The real lean runtime of TensorRT rejects bytes that are not an engine with our error, and never crashes.

Each case runs in a separate process, because a crash would end the tests. The lean runtime cannot build, so these tests
have no valid engine.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.gpu

ENGINE = """
import tensorrt_lean, torch
from runtime.spec import EngineSpec, TensorSpec
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_calls import TensorRTError

numbers = [int(number) for number in tensorrt_lean.__version__.split(".")]
header = b"ftrt" + bytes(20)
serialized = {serialized}
spec = EngineSpec("vae", (TensorSpec("x", (1, 4), torch.float32),), (TensorSpec("y", (1, 4), torch.float32),))
try:
    TensorRTEngine(spec, serialized, torch.device("cuda"))
except TensorRTError as error:
    print(error)
"""
REFUSED = {
    "b''": "engine vae: 0 bytes that begin with b'' are not a serialized TensorRT engine",
    "header[:9]": "engine vae: 9 bytes that begin with b'ftrt",
    "bytes(5000)": "engine vae: 5000 bytes that begin with b'\\x00",
    "header + bytes([10, 16, 1, 11]) + bytes(5000)": "engine vae: the serialized engine was built by "
    "TensorRT 10.16.1.11, but ",
    "header + bytes(numbers)": "engine vae: the serialized engine cannot be read; build it again with python -m build",
    "header + bytes(numbers) + bytes(5000)": "engine vae: the serialized engine cannot be read; build it again with",
    "header + bytes(numbers) + bytes(range(256)) * 400": "engine vae: the serialized engine cannot be read; build",
}
BACKEND = """
import sys
from pathlib import Path
import tensorrt_lean, torch
import cldm.engine_files
from canny2image_TRT import hackathon
from cldm.checkpoint_choice import find_checkpoint
from cldm.engine_files import Target, expected_manifest
from runtime.artifacts import save_stages

cldm.engine_files.ENGINES = Path(sys.argv[1])
numbers = [int(number) for number in tensorrt_lean.__version__.split(".")]
names = ("text", "hint", "control", "encoder", "decoder", "vae")
if sys.argv[2] == "forged":
    target = Target("small", 256, 384, 1, "fp16", "tensorrt").of(find_checkpoint("random:0", "small"))
    engines = {name: b"ftrt" + bytes(20) + bytes(numbers) + bytes(5000) for name in names}
    save_stages(target.folder, engines, expected_manifest(target, torch.device("cuda")))
try:
    hackathon("random:0", architecture="small", backend="tensorrt", device="cuda").initialize()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(autouse=True)
def _lean() -> None:
    pytest.importorskip("tensorrt_lean", reason="tensorrt_lean cannot be imported here")


def last_line(program: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("serialized", REFUSED)
def test_what_is_no_engine(serialized: str) -> None:
    assert last_line(ENGINE.format(serialized=serialized)).startswith(REFUSED[serialized])


def test_the_runtimes_own_words_are_told() -> None:
    line = last_line(ENGINE.format(serialized="header + bytes(numbers) + bytes(5000)"))
    assert "(TensorRT: " in line
    assert "erializ" in line


def test_without_a_gpu() -> None:
    line = last_line(ENGINE.format(serialized="header + bytes(numbers)"), CUDA_VISIBLE_DEVICES="")
    assert line.startswith("TensorRT engines need a CUDA device: got cuda, and PyTorch sees 0 of them")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("missing", "EngineFileError engine files .*: the folder does not exist; build them with python -m build"),
        ("forged", "ValueError engine text: the serialized engine cannot be read; build it again with python -m build"),
    ],
)
def test_the_backend(files: str, expected: str, tmp_path: Path) -> None:
    line = last_line(BACKEND, str(tmp_path), files)
    start, _, end = expected.partition(".*")
    assert line.startswith(start)
    assert end in line
