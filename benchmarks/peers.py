"""python -m benchmarks.peers: what a user would pick instead of this project, measured on the same weights and inputs.

The networks are those of diffusers and transformers, with and without torch.compile, launched one by one or recorded
into one CUDA graph. All peers make the contest's picture: two prompts, 20 DDIM steps, guidance 9, full control. Random
weights have the speed and the numerics of real ones, so none are needed.
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

from benchmarks.diffusers_networks import make_networks
from benchmarks.drawing import SCALE, STEPS, Drawing, Inputs, OneGraph, Peer, StepByStep
from benchmarks.timing import Candidate, measure, table
from cldm.canny import hint_image
from cldm.checkpoint import Checkpoint
from cldm.model import ControlLDM
from cldm.request import Request
from files import check_writable, write_whole
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
    """(name, plan, peer) for every name of KINDS and every plan ("all", "ten" or step indices), one after another.

    Eager peers come first. Networks are shared, so a peer that the caller drops before asking for the next leaves only
    them in memory. A peer compiles and records at its first call, and a graph keeps the shapes of that.
    Raises ValueError for an unknown name or plan, for a graph without a CUDA device and, at the first peer, where
    diffusers is missing.
    """
    for name in names:
        if name not in KINDS:
            raise ValueError(f"peer {name!r}: expected one of {'; '.join(KINDS)}")
        if KINDS[name].one_graph and device.type != "cuda":
            raise ValueError(f"peer {name!r} records a CUDA graph, and the device is {device}: use a CUDA device")
    for plan in plans:
        make_plan(plan, STEPS)
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
    """What `hackathon` on `device` would give its networks for the request: tokens and hint from the host, noise there.

    Raises ValueError for a request that is not of the contest's kind: one picture, 20 steps, scale 9, strength 1.
    """
    kind = (request.num_samples, request.ddim_steps, request.scale, request.strength, request.guess_mode, request.eta)
    if kind != (1, STEPS, SCALE, 1, False, 0):
        raise ValueError(
            f"request with (num_samples, ddim_steps, scale, strength, guess_mode, eta) = {kind}: the peers make "
            f"pictures with {(1, STEPS, SCALE, 1, False, 0)} only"
        )
    height, width = request.size
    generator = torch.Generator(device).manual_seed(int(request.seed))
    noise = torch.randn((1, 4, height // 8, width // 8), generator=generator, device=device)
    return Inputs(tokenizer(request.prompts), hint_image(torch.from_numpy(request.edges())), noise)


def candidates(
    names: Sequence[str], plans: Sequence[str], architecture: str, device: torch.device
) -> tuple[Iterator[Candidate], int]:
    """The eager float32 peer and then `names` in the device's usual precision; and how many. Raises as `peers`."""
    checkpoint = Checkpoint("random:0", architecture, "given")
    model, inputs = checkpoint.load_model(), inputs_for(contest_request(), checkpoint.load_tokenizer(), device)
    usual = choose_precision("auto", device).name
    groups = [("fp32", ["eager"]), (usual, [name for name in names if (usual, name) != ("fp32", "eager")])]
    # All are asked for before any is drawn, so that a wrong choice is an error now.
    made = [(precision, peers(group, model, plans, device, PRECISIONS[precision].dtype)) for precision, group in groups]
    listed = (
        Candidate(name, plan, precision, partial(peer, inputs))
        for precision, iterator in made
        for name, plan, peer in iterator
    )
    return listed, sum(len(group) for _, group in groups) * len(plans)


def contest_request() -> Request:
    """The contest's arguments, on the first of the pictures that a run is scored on."""
    return Request.contest(next(iter(find_pictures().values())))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those that every benchmark of pictures has."""
    add = parser.add_argument
    add("--architecture", default="sd15", help="file of models/*.yaml; default: sd15")
    add("--plan", nargs="+", default=["all", "ten"], help="all, ten or step indices, one or more; default: all ten")
    add("--peers", nargs="*", choices=list(KINDS), help="default: every one on a GPU, eager on the CPU")
    add("--device", default="auto", help="cpu, cuda or cuda:N")
    add("--runs", type=positive, default=10, help="timed pictures of each; default: 10")
    add("--out", type=Path, help="file for the results as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")


def chosen(options: argparse.Namespace) -> tuple[torch.device, list[str]]:
    """The device and the peers. Raises ValueError or OSError for a device or a file that cannot be."""
    if options.out:
        check_writable(options.out.parent)
    device = choose_device(options.device)
    usual = list(KINDS) if device.type == "cuda" else ["eager"]
    return device, usual if options.peers is None else options.peers


def save_report(path: Path | None, options: argparse.Namespace, device: torch.device, results: dict[str, Any]) -> None:
    """The results as JSON, with what they were measured on; nothing where no path is given."""
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
    try:
        device, names = chosen(options)
        listed, count = candidates(names, options.plan, options.architecture, device)
        rows = measure(listed, count, device, options.runs)
    except (ValueError, OSError) as error:
        if options.debug:
            raise
        raise SystemExit(f"error: {error}") from error
    print(table(rows))
    save_report(options.out, options, device, {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
