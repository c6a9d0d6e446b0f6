"""The peers generate the same picture as this project, and their work can be captured into a graph."""

import json
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import benchmarks.latency
import benchmarks.loras
import benchmarks.tricks
from benchmarks.diffusers_networks import make_networks
from benchmarks.drawing import Drawing, Inputs
from benchmarks.peers import KINDS, contest_request, inputs_for, main, peers
from cldm.canny import Picture
from cldm.checkpoint import Checkpoint
from cldm.model import ControlLDM
from cldm.pipeline import Pipeline, Shape
from cldm.request import Request
from ldm.config import load_architecture
from ldm.diffusion import alphas_cumprod
from ldm.tokenizer import Tokenizer
from plans.plan import make_plan
from runtime.eager import EagerEngine
from runtime.streams import Streams
from tests.arguments import small_contest_request

BRIGHT = 100  # factor on the first hint convolution, so that edges affect the picture with random weights
CPU, SMALL = torch.device("cpu"), Checkpoint("random:0", "small", "given")
HAS_DIFFUSERS = pytest.mark.skipif(
    find_spec("diffusers") is None, reason="the peers need diffusers, which is not installed"
)


@pytest.fixture(scope="module")
def loaded() -> tuple[ControlLDM, Tokenizer]:
    model = SMALL.load_model()
    first, *_ = model.control.input_hint_block.children()
    next(first.parameters()).data *= BRIGHT
    return model, SMALL.load_tokenizer()


def drawn(
    loaded: tuple[ControlLDM, Tokenizer], names: Sequence[str], plans: Sequence[str], device: torch.device, half: bool
) -> dict[tuple[str, str], Picture]:
    """Return (name, plan) -> picture, in half or full precision."""
    model, tokenizer = loaded
    inputs = inputs_for(small_contest_request(), tokenizer, device)
    dtype = torch.float16 if half else torch.float32
    return {(name, plan): peer(inputs) for name, plan, peer in peers(names, model, plans, device, dtype)}


@HAS_DIFFUSERS
def test_eager_peer_generates_our_picture(loaded: tuple[ControlLDM, Tokenizer]) -> None:
    theirs = drawn(loaded, ["eager"], ["all", "ten"], CPU, half=False)
    assert not np.array_equal(theirs["eager", "all"], theirs["eager", "ten"])
    for plan in ("all", "ten"):
        asked = small_contest_request()
        pipeline = Pipeline(loaded[0], Shape(*asked.size, 1, 20, make_plan(plan, 20)), EagerEngine, Streams(CPU))
        pipeline.write([asked], loaded[1])
        pipeline.run()
        apart = np.abs(theirs["eager", plan].astype(int) - pipeline.pictures[0].numpy())
        assert (apart <= 1).mean() > 0.99


@HAS_DIFFUSERS
@pytest.mark.parametrize("name", ["small", "sd15"])
def test_drawing_can_be_captured(name: str, nothing_from_the_host: TorchDispatchMode) -> None:
    architecture, meta = load_architecture(name), torch.device("meta")
    with meta:
        model = ControlLDM(architecture)
        tokens, noise = torch.zeros(2, 77, dtype=torch.int32), torch.zeros(1, 4, 32, 48)
        inputs = Inputs(tokens, torch.zeros(1, 3, 256, 384), noise)
    networks = make_networks(model, meta, torch.float16, compiled=False)
    drawing = Drawing(networks, alphas_cumprod(architecture.schedule), "19,8", meta)
    with nothing_from_the_host:
        picture = drawing(inputs)
    assert (picture.shape, picture.dtype) == ((256, 384, 3), torch.uint8)


@pytest.mark.gpu
@HAS_DIFFUSERS
def test_all_peers_agree_on_a_gpu(loaded: tuple[ControlLDM, Tokenizer]) -> None:
    """Graphs are captured on zeros, not on these inputs, so this also verifies that they read their buffers."""
    device = torch.device("cuda")
    base = drawn(loaded, ["eager"], ["ten"], device, half=False)["eager", "ten"].astype(int)
    pictures = drawn(loaded, list(KINDS), ["ten"], device, half=True)
    assert len(pictures) == len(KINDS)
    for (name, _), picture in pictures.items():
        assert np.abs(picture - base).mean() < 1, name


@HAS_DIFFUSERS
def test_command_writes_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "peers.json"
    main(["--architecture", "small", "--plan", "19", "--runs", "2", "--device", "cpu", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["name"], row["plan"], row["precision"]) == ("eager", "19", "fp32")
    assert 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"]
    assert (row["max_difference"], row["psnr_db"], row["peak_gib"]) == (0, None, None)
    assert "eager (fp32)" in capsys.readouterr().out


def test_bad_choices_raise(loaded: tuple[ControlLDM, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = loaded
    for names, plans, message in (
        (["eagre"], ["all"], "peer 'eagre': expected one of eager;"),
        (["eager, one graph"], ["all"], "needs a CUDA graph, but the device is cpu"),
        (["eager"], ["most"], "plan 'most': expected"),
    ):
        with pytest.raises(ValueError, match=message):
            peers(names, model, plans, CPU, torch.float32)
    with pytest.raises(ValueError, match="the peers support only"):
        inputs_for(Request(**vars(contest_request()) | {"scale": 7.5}), tokenizer, CPU)


def test_a_missing_library_is_said_before_the_weights_are_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(Checkpoint, "load_model", Mock(side_effect=AssertionError("too early")))
    for command in (main, benchmarks.latency.main):
        with pytest.raises(SystemExit, match="error: the peers need the diffusers library"):
            command(["--architecture", "small", "--device", "cpu"])


COMMANDS = [main, benchmarks.latency.main, benchmarks.tricks.main, benchmarks.loras.main]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__module__)
def test_the_real_size_on_the_cpu_must_be_asked_for(
    command: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "load_model", Mock(side_effect=ValueError("loading")))
    with pytest.raises(SystemExit, match="sd15, the default, takes minutes for each picture on the CPU: give --arch"):
        command(["--device", "cpu"])
    with pytest.raises(SystemExit, match="error: loading"):
        command(["--device", "cpu", "--architecture", "sd15"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__module__)
def test_ctrl_c_is_one_line(
    command: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Checkpoint, "load_model", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit) as caught:
        command(["--device", "cpu", "--architecture", "small"])
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped: nothing was written"


@pytest.mark.parametrize("command", COMMANDS[:3], ids=lambda command: command.__module__)
def test_a_report_that_cannot_be_written_is_said_first(command: Callable[[list[str]], None], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=rf"error: {tmp_path} cannot be written \(it is a folder\)"):
        command(["--device", "cpu", "--architecture", "small", "--out", str(tmp_path)])
