"""python -m benchmarks.latency: measures time per picture and compares it with the peers and the roofline limit.

Weights are random; they have the speed and the numerics of real ones. Our wall time is the time of process(), including
edge detection and tokenizer; the part outside the graph is host time. `--peers` without any name omits the peers.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, product

import torch

from benchmarks.limit import Rates, count_work, limit_ms, measure_rates
from benchmarks.peers import add_arguments, candidates, chosen, contest_request, save_report
from benchmarks.timing import Candidate, measure, table
from canny2image_TRT import hackathon
from cldm.canny import Picture
from cldm.request import Request
from commands import one_line
from plans.plan import make_plan
from runtime.graph import Graph
from runtime.timing import median_ms
from scoring.timeline import totals


@dataclass(frozen=True)
class Detail:
    """Breakdown of the time of one of our pictures.

    graph_ms, host_ms, kernels and nodes are None without a graph; limit_ms is None on the CPU.
    """

    backend: str
    plan: str
    evaluations: int
    graph_ms: float | None  # median, from launch until the picture is in host memory
    host_ms: float | None  # median of process() minus graph_ms
    host_parts_ms: dict[str, float]  # medians: edge detection, tokenizer
    kernels: int | None
    nodes: int | None
    stages_ms: dict[str, float]  # total of all calls of a stage, from one timed run
    limit_ms: float | None


class Ours:
    """Generates the picture with several plans on one runtime, which is initialized for the first candidate."""

    def __init__(self, architecture: str, precision: str, backend: str, device: torch.device) -> None:
        self.runtime = hackathon(
            "random:0", architecture=architecture, precision=precision, backend=backend, device=str(device)
        )
        self.request: Request = contest_request()

    def __call__(self, plan: str) -> Picture:
        return self.runtime.draw(replace(self.request), plan)[0]  # replace() checks the arguments, as process() does

    def candidates(self, plans: Sequence[str]) -> Iterator[Candidate]:
        self.runtime.initialize()
        for plan in plans:
            name = f"ours, {self.runtime.backend.name}"
            yield Candidate(name, plan, self.runtime.precision.name, partial(self, plan))

    def detail(self, plan: str, wall_ms: float, rates: Rates | None, runs: int) -> Detail:
        self(plan)
        evaluations = len(make_plan(plan, self.request.ddim_steps).evaluated)
        work = count_work(self.runtime.checkpoint.architecture, *self.request.size, self.runtime.precision.dtype)
        graph = self.runtime.graph
        graph_ms = median_ms(partial(_launch, graph), runs) if graph else None
        tokenizer = self.runtime.checkpoint.load_tokenizer()
        parts = {
            "edges": self.request.edge_map,
            "tokens": lambda: tokenizer(self.request.prompts),
        }
        return Detail(
            backend=self.runtime.backend.name,
            plan=plan,
            evaluations=evaluations,
            graph_ms=graph_ms,
            host_ms=None if graph_ms is None else wall_ms - graph_ms,
            host_parts_ms={name: median_ms(part, runs) for name, part in parts.items()},
            kernels=graph.kinds["Kernel"] if graph else None,
            nodes=graph.nodes if graph else None,
            stages_ms=totals(self.runtime.timeline()),
            limit_ms=limit_ms(work, rates, evaluations) if rates else None,
        )


def _launch(graph: Graph) -> None:
    """Launch the graph and wait until the picture is in host memory."""
    graph.launch()
    graph.stream.synchronize()


def detail_lines(details: Sequence[Detail]) -> str:
    lines = []
    for detail in details:
        found = {
            "graph": detail.graph_ms,
            "host": detail.host_ms,
            **detail.host_parts_ms,
            "limit": detail.limit_ms,
            "times the limit": detail.graph_ms / detail.limit_ms if detail.graph_ms and detail.limit_ms else None,
            **detail.stages_ms,
        }
        numbers = ", ".join(f"{name} {value:.2f}" for name, value in found.items() if value is not None)
        lines.append(
            f"ours, {detail.backend}, {detail.plan}: {numbers}; kernels {detail.kernels}, nodes {detail.nodes}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--backend", nargs="+", default=["auto"], help="our backends, one or more; default: auto")
    options = parser.parse_args(arguments)
    with one_line(options.debug):
        device, names = chosen(options)
        ours = [Ours(options.architecture, "auto", backend, device) for backend in options.backend]
        # Without peers, all pictures are compared with our own float32 picture.
        first, count = (
            candidates(names, options.plan, options.architecture, device)
            if names
            else (Ours(options.architecture, "fp32", "eager", device).candidates(options.plan), len(options.plan))
        )
        mine = list(product(ours, options.plan))
        listed = chain(first, *(one.candidates(options.plan) for one in ours))
        rows = measure(listed, count + len(mine), device, options.runs)
        rates = measure_rates(device, ours[0].runtime.precision.dtype) if device.type == "cuda" else None
        walls = [row.median_ms for row in rows[-len(mine) :]]
        details = [one.detail(plan, wall, rates, options.runs) for (one, plan), wall in zip(mine, walls, strict=True)]
        print(table(rows))
        print(detail_lines(details))
        results = {
            "rows": [asdict(row) for row in rows],
            "details": [asdict(detail) for detail in details],
            "rates": asdict(rates) if rates else None,
        }
        save_report(options.out, options, device, results)


if __name__ == "__main__":
    main()
