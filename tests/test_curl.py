"""The curl commands of README and docs, against a server in this process."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="./preprocess.sh serve installs the server's packages")
pytest.importorskip("requests", reason="./preprocess.sh dev installs the clients of the server")

from tests.local_server import serving
from tests.server_client import decoded
from tests.test_readme import BLOCK, ENGLISH, PAGES

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "http://127.0.0.1:8000"  # the default of the server


def curls(page: Path) -> list[str]:
    """Return the commands in the code blocks of a page that start with curl, each up to the next one."""
    blocks = [block for block in BLOCK.findall(page.read_text()) if re.search("^curl ", block, re.MULTILINE)]
    return [part for block in blocks for part in re.split(r"^(?=curl )", block, flags=re.MULTILINE) if part.strip()]


COMMANDS = [command for page in PAGES for command in curls(page)]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(count=1) as address:
        yield address


def test_the_readme_shows_both_interfaces() -> None:
    assert [re.findall(r"8000(\S+)", command) for command in curls(ENGLISH)] == [
        ["/v1/pictures"],
        ["/sdapi/v1/txt2img"],
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("command", sorted({*COMMANDS}), ids=lambda command: re.findall(r"8000(\S+)", command)[0])
def test_each_command_gives_a_red_bird(command: str, server: str, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    assert ADDRESS in command
    subprocess.run(["bash", "-euc", command.replace(ADDRESS, server)], cwd=tmp_path, check=True)
    answer = json.loads((tmp_path / "answer.json").read_text())
    (picture,) = answer.get("pictures") or answer["images"]
    assert decoded(picture).shape == (256, 384, 3)
    assert answer["parameters"]["prompt"] == "a red bird"
