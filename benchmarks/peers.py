"""python -m benchmarks.peers: measures the libraries that a user might choose instead, with equal weights and inputs.

Peers use the networks of diffusers and transformers, with and without torch.compile, launched kernel by kernel or
captured into one CUDA graph. All generate the contest's picture: prompt and negative prompt, 20 DDIM steps, guidance 9,
full control. Weights are random; they have the speed and the numerics of real ones.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.diffusers_networks import check_diffusers, make_networks
from benchmarks.drawing import SCALE, STEPS, Drawing, Inputs, OneGraph, Peer, StepByStep
from benchmarks.timing import Candidate, measure, table
from cldm.canny import hint_image
from cldm.checkpoint import Checkpoint
from cldm.model import ControlLDM
from cldm.request import Request
from commands import one_line
from files import check_file, write_whole
from ldm.tokenizer import Tokenizer
from plans.plan import make_plan
from runtime.backends import PRECISIONS, choose_device, choose_precision
from scoring.pictures import find_pictures


@dataclass(frozen=True)
class Kind:
    compiled: bool  # torch.compile, channels_last and cudnn.benchmark
    one_graph: bool


KINDS = {
    "eager": Kind(compiled=False, one_graph=False),
    "eager, one graph": Kind(compiled=False, one_graph=True),
    "compiled": Kind(compiled=True, one_graph=False),
    "compiled, one graph": Kind(compiled=True, one_graph=True),
}


def peers(
    names: Sequence[str], model: ControlLDM, plans: Sequence[str], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, str, Peer]]:
    """Return an iterator of (name, plan, peer) over all `names` and `plans`.

    names: keys of KINDS. plans: choices for `make_plan`. Peers without torch.compile come first. Peers share networks:
    if the caller drops each peer before requesting the next, only the networks stay in memory. A peer compiles and
    captures at its first call; its graph is fixed to that call's shapes.
    Raise ValueError for an unknown name or plan, for a graph without a CUDA device, and if diffusers is not installed.
    """
    for name in names:
        if name not in KINDS:
            raise ValueError(f"peer {name!r}: expected one of {'; '.join(KINDS)}")
        if KINDS[name].one_graph and device.type != "cuda":
            raise ValueError(f"peer {name!r} needs a CUDA graph, but the device is {device}: use a CUDA device")
    for plan in plans:
        make_plan(plan, STEPS)
    check_diffusers()
    return _make_peers(names, model, plans, device, dtype)


def _make_peers(
    names: Sequence[str], model: ControlLDM, plans: Sequence[str], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, str, Peer]]:
    abar = model.alphas_cumprod.double().cpu().numpy()
    for compiled in sorted({KINDS[name].compiled for name in names}):
        networks = make_networks(model, device, dtype, compiled)
        for name, plan in product([name for name in names if KINDS[name].compiled == compiled], plans):
            drawing = Drawing(networks, abar, plan, device)
            yield name, plan, (OneGraph if KINDS[name].one_graph else StepByStep)(drawing, device)


def inputs_for(request: Request, tokenizer: Tokenizer, device: torch.device) -> Inputs:
    """Return the inputs that `hackathon` gives its networks: tokens and hint on the CPU, noise on `device`.

    Raise ValueError unless the request has the contest's settings: one picture, 20 steps, scale 9, strength 1, guess
    mode off, eta 0.
    """
    kind = (request.num_samples, request.ddim_steps, request.scale, request.strength, request.guess_mode, request.eta)
    if kind != (1, STEPS, SCALE, 1, False, 0):
        raise ValueError(
            f"request with (num_samples, ddim_steps, scale, strength, guess_mode, eta) = {kind}: the peers "
            f"support only {(1, STEPS, SCALE, 1, False, 0)}"
        )
    height, width = request.size
    generator = torch.Generator(device).manual_seed(int(request.seed))
    noise = torch.randn((1, 4, height // 8, width // 8), generator=generator, device=device)
    return Inputs(tokenizer(request.prompts), hint_image(torch.from_numpy(request.edge_map())[None]), noise)


def candidates(
    names: Sequence[str], plans: Sequence[str], architecture: str, device: torch.device
) -> tuple[Iterator[Candidate], int]:
    """Return an iterator of candidates, and their number.

    The eager float32 peer comes first, then `names` in the device's default precision, each with all `plans`.
    Raise ValueError as `peers` does.
    """
    check_diffusers()  # before the weights are created
    checkpoint = Checkpoint("random:0", architecture, "given")
    model, inputs = checkpoint.load_model(), inputs_for(contest_request(), checkpoint.load_tokenizer(), device)
    usual = choose_precision("auto", device).name
    groups = [("fp32", ["eager"]), (usual, [name for name in names if (usual, name) != ("fp32", "eager")])]
    # Create all iterators before anything runs, so that an invalid choice raises here.
    made = [(precision, peers(group, model, plans, device, PRECISIONS[precision].dtype)) for precision, group in groups]
    listed = (
        Candidate(name, plan, precision, partial(peer, inputs))
        for precision, iterator in made
        for name, plan, peer in iterator
    )
    return listed, sum(len(group) for _, group in groups) * len(plans)


def contest_request() -> Request:
    """Return the contest's arguments with the first picture of a scoring run."""
    return Request.contest(next(iter(find_pictures().values())))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all picture benchmarks share."""
    add = parser.add_argument
    add("--architecture", help="NAME of a file models/NAME.yaml; default: sd15, but none on the CPU")
    add("--plan", nargs="+", default=["all", "ten"], help="plans: all, ten or step indices; default: all ten")
    add("--peers", nargs="*", choices=list(KINDS), help="peers to measure; default: all on a GPU, eager on the CPU")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--runs", type=positive, default=10, help="timed pictures per candidate; default: 10")
    add("--out", type=Path, help="file for the results as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")


def chosen(options: argparse.Namespace) -> tuple[torch.device, list[str]]:
    """Return the device and the names of the peers, and set the architecture.

    Raise ValueError or OSError for an unusable device or file, and if there is no architecture.
    """
    if options.out:
        check_file(options.out)
    device = choose_device(options.device)
    options.architecture = settle_architecture(options.architecture, device)
    usual = list(KINDS) if device.type == "cuda" else ["eager"]
    return device, usual if options.peers is None else options.peers


def settle_architecture(given: str | None, device: torch.device, usual: str = "sd15") -> str:
    """Return the architecture, `usual` if none is given. Raise ValueError if that would be sd15 on the CPU."""
    if given is None and usual == "sd15" and device.type == "cpu":
        raise ValueError(
            "architecture sd15, the default, takes minutes for each picture on the CPU: give --architecture small, or "
            "--architecture sd15 if you want to wait"
        )
    return given or usual


def save_report(path: Path | None, options: argparse.Namespace, device: torch.device, results: dict[str, Any]) -> None:
    """Write the results as JSON, with hardware and versions. Do nothing if `path` is None."""
    if path is None:
        return
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers") if _installed(name)}
    about = {"architecture": options.architecture, "device": chip, "runs": options.runs, "versions": versions}
    write_whole(path, (json.dumps(about | results, indent=2) + "\n").encode())


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected 1 or more")
    return number


def _installed(name: str) -> bool:
    return find_spec(name) is not None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    with one_line(options.debug):
        device, names = chosen(options)
        listed, count = candidates(names, options.plan, options.architecture, device)
        rows = measure(listed, count, device, options.runs)
        print(table(rows))
        save_report(options.out, options, device, {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
