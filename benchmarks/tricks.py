"""python -m benchmarks.tricks: measures what each trick saves: time without the trick minus time with all tricks.

The picture is the contest's, with random weights, in one CUDA graph of compiled engines. The command compiles the
engines itself, which takes minutes, and saves them only in PyTorch's own cache. On the CPU, it runs eager engines
without a graph.
"""

import argparse
import copy
import gc
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.left_out import LEFT_OUT, NOTHING, LeftOut
from benchmarks.peers import contest_request, positive, save_report, settle_architecture
from benchmarks.timing import apart
from cldm.canny import Picture
from cldm.checkpoint import Checkpoint
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.one_graph import record
from cldm.pipeline import Pipeline, Shape
from cldm.request import Request
from commands import one_line
from files import check_file
from ldm.tokenizer import Tokenizer
from plans.plan import make_plan
from runtime.backends import Precision, choose_device, choose_precision
from runtime.eager import EagerEngine
from runtime.inductor import CompiledEngines
from runtime.streams import Streams
from runtime.timing import median_ms

WITHOUT_GRAPH = "one graph"


@dataclass(frozen=True)
class Row:
    left_out: str
    ms: float  # median, from launch until the picture is in host memory
    saved_ms: float  # by the trick
    nodes: int | None  # of the graph; None without a graph
    psnr_db: float | None  # compared with the picture with all tricks; None if identical


class Bench:
    """Times pictures of one request. Each pipeline uses and changes its own copy of the model."""

    def __init__(self, architecture: str, plan: str, precision: Precision, device: torch.device, runs: int) -> None:
        checkpoint = Checkpoint("random:0", architecture, "given")
        self.model: ControlLDM = checkpoint.load_model(device)
        self.tokenizer: Tokenizer = checkpoint.load_tokenizer()
        self.request: Request = contest_request()
        self.shape = Shape(*self.request.size, 1, self.request.ddim_steps, make_plan(plan, self.request.ddim_steps))
        self.precision, self.device, self.runs = precision, device, runs
        self.compiled = device.type == "cuda"
        self.whole_ms = 0.0
        self.whole: Picture | None = None

    def measure(self, name: str) -> list[Row]:
        """Return the row of the picture without the trick. Measure NOTHING first: other rows are compared with it.

        For NOTHING on a GPU, also return a row without the graph.
        """
        try:
            with LEFT_OUT[name].patch(), torch.cuda.device(self.device) if self.compiled else nullcontext():
                pipeline = self._pipeline(LEFT_OUT[name])
                picture = pipeline([self.request], self.tokenizer)[0]
                rows = [self._row(name, pipeline, picture)]
                if name == NOTHING and pipeline.graph:
                    pipeline.graph = None
                    rows.append(self._row(WITHOUT_GRAPH, pipeline, pipeline([self.request], self.tokenizer)[0]))
                return rows
        finally:
            gc.collect()
            torch._dynamo.reset()
            torch.cuda.empty_cache()

    def _pipeline(self, left_out: LeftOut) -> Pipeline:
        model = make_fast(copy.deepcopy(self.model), self.precision.dtype)
        streams = Streams(self.device)
        if not self.compiled:
            return left_out.pipeline(model, self.shape, EagerEngine, streams)
        from plugins.layers import use_kernels  # imported here: Triton comes only with PyTorch for CUDA

        use_kernels(model)
        pipeline = left_out.pipeline(model, self.shape, CompiledEngines(), streams)
        record(pipeline, [self.request], self.tokenizer)
        return pipeline

    def _row(self, name: str, pipeline: Pipeline, picture: Picture) -> Row:
        def run() -> None:
            (pipeline.graph.launch if pipeline.graph else pipeline.run)()
            pipeline.streams.synchronize()

        ms = median_ms(run, self.runs, warmups=1)
        if self.whole is None:
            self.whole, self.whole_ms = picture, ms
        nodes = pipeline.graph.nodes if pipeline.graph else None
        return Row(name, ms, ms - self.whole_ms, nodes, apart(picture, self.whole)[1])


def table(rows: Sequence[Row]) -> str:
    lines = ["| left out | ms | saved ms | nodes | PSNR dB |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        psnr = "identical" if row.psnr_db is None else f"{row.psnr_db:.1f}"
        lines.append(f"| {row.left_out} | {row.ms:.2f} | {row.saved_ms:.2f} | {row.nodes or '-'} | {psnr} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("tricks", nargs="*", metavar="TRICK", help=f"default: all that the device supports, of {', '.join(LEFT_OUT)}")
    add("--architecture", help="NAME of a file models/NAME.yaml; default: sd15, but none on the CPU")
    add("--plan", default="all", help="all, ten or step indices; default: all")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--runs", type=positive, default=11, help="timed pictures per row; default: 11")
    add("--out", type=Path, help="file for the results as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    with one_line(options.debug):
        if options.out:
            check_file(options.out)
        device = choose_device(options.device)
        options.architecture = settle_architecture(options.architecture, device)
        names = [NOTHING, *(name for name in _chosen(options.tricks, device) if name != NOTHING)]
        bench = Bench(options.architecture, options.plan, choose_precision("auto", device), device, options.runs)
        rows = [row for name in tqdm(names, unit="trick") for row in bench.measure(name)]
        print(table(rows))
        save_report(options.out, options, device, {"plan": options.plan, "rows": [asdict(row) for row in rows]})


def _chosen(names: Sequence[str], device: torch.device) -> list[str]:
    """Return `names`, or all tricks that the device supports if empty. Raise ValueError for any other name."""
    known = [name for name, one in LEFT_OUT.items() if device.type == "cuda" or not one.compiled]
    for name in names:
        if name not in known:
            raise ValueError(f"trick {name!r} on {device.type}: expected one of {', '.join(known)}")
    return list(names) or known


if __name__ == "__main__":
    main()
