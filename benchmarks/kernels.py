"""python -m benchmarks.kernels: the time of a picture's kernels by kind, and the rates of the costliest products.

With --pictures, of several pictures at once, as in `process_many`.

Profiles each stage of the compiled engines alone, launched kernel by kernel, and multiplies by its calls in a picture.
So the times are those of kernels that have the GPU for themselves, without gaps; ControlNet and encoder share it in a
picture. Weights are random.
"""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.limit import PER_EVALUATION
from benchmarks.peers import contest_request, settle_architecture
from canny2image_TRT import hackathon
from cldm.batch_sizes import BATCHES
from commands import one_line
from runtime.backends import choose_device

# The first pattern that a kernel's name contains.
KINDS = {
    "our 3x3 convolutions": r"canny2image_convolution",
    "our products": r"canny2image_(?!group_norm|update|convolution|attention|long_attention)",
    "our GroupNorm": r"canny2image_group_norm",
    "attention": r"attention|sdpa|flash",
    "other convolutions": r"fprop|cudnn|_convolution|nhwcAddPadding",
    "other products": r"nvjet|gemm|cublas|splitK|_product|_geglu",
    "torch.compile's kernels": r"^triton_",
}
OTHERS = "copies, fills, others"


@dataclass
class Cost:
    """The kernels of one kind, or of one op with inputs of the same shapes, in a picture."""

    name: str
    flops: int = 0  # per call; a multiply-add counts as two
    bytes: int = 0  # per call: factors and result, each moved once
    us: float = 0.0  # all calls together
    calls: int = 0

    def add(self, us: float, calls: int) -> None:
        """Add kernels that take `us` microseconds in each of the calls of a stage."""
        self.us += us * calls
        self.calls += calls

    def cells(self) -> list[str]:
        each = self.us / self.calls
        rates = [f"{self.flops / each / 1e6:.0f}", f"{self.bytes / each / 1e6:.2f}"] if self.flops else []
        return [self.name, f"{self.us / 1000:.2f}", str(self.calls), f"{each:.1f}", *rates]


def kind(kernel: str) -> str:
    """Return the kind of a kernel by its name."""
    return next((name for name, pattern in KINDS.items() if re.search(pattern, kernel)), OTHERS)


def work(op: str, shapes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the operations and the bytes of a convolution or a product of float16; (0, 0) for other ops.

    shapes: of the op's arguments; an argument without shape is empty.
    """
    name = op.removeprefix("canny2image::")
    if name.startswith("convolution"):
        (n, channels, h, w), weight, *_ = shapes
        pixels, outs = n * h * w, weight[0]
        per_pixel = prod(weight[1:]) + sum(one[1] for one in shapes[2:] if len(one) == 2)  # also of a 1x1 convolution
        flops, values = 2 * pixels * outs * per_pixel, pixels * (channels + outs) + outs * per_pixel
    elif name in ("product", "product_stats", "norm_product", "norm_geglu"):
        (rows, depth), weight = shapes[0], shapes[2] if name.startswith("norm") else shapes[1]
        columns = weight[0] // (2 if name == "norm_geglu" else 1)
        flops, values = 2 * rows * depth * weight[0], rows * (depth + columns) + weight[0] * depth
    else:
        return 0, 0
    return flops, 2 * values


def costs(architecture: str, pictures: int = 1) -> tuple[list[Cost], list[Cost]]:
    """Return the costs of pictures with all evaluations, by kind of kernel and by op and shapes, costliest first."""
    runtime = hackathon("random:0", architecture=architecture, backend="inductor", plan="all")
    runtime.initialize()
    runtime.process_many([contest_request()] * pictures)
    pipeline = runtime._last("a profile")
    if pipeline.shape.samples != pictures:
        raise ValueError(
            f"--pictures: got {pictures}, but there are engine files for {pipeline.shape.samples} only: run python -m "
            f"build --samples {pictures}"
        )
    kinds: dict[str, Cost] = {}
    ops: dict[str, Cost] = {}
    for stage, engine in pipeline.engines.items():
        calls = len(pipeline.shape.plan.evaluated) if stage in PER_EVALUATION else 1
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        with profile(activities=activities, record_shapes=True, acc_events=True) as recorded:
            engine.enqueue(pipeline.streams.main)
            pipeline.streams.synchronize()
        for event in recorded.events():
            if event.device_type.name == "CUDA":
                kinds.setdefault(kind(event.name), Cost(kind(event.name))).add(event.device_time, calls)
            elif event.kernels and (counted := work(event.name, event.input_shapes))[0]:
                shapes = ["x".join(map(str, shape)) for shape in event.input_shapes[:3] if shape]
                name = " ".join([event.name.removeprefix("canny2image::"), *shapes])
                ops.setdefault(name, Cost(name, *counted)).add(sum(one.duration for one in event.kernels), calls)
    return _sorted(kinds), _sorted(ops)


def _sorted(some: Mapping[str, Cost]) -> list[Cost]:
    return sorted(some.values(), key=lambda cost: -cost.us)


def table(heads: Sequence[str], rows: Iterable[Cost]) -> list[str]:
    """Return the lines of a table in Markdown."""
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {' | '.join(r.cells())} |" for r in rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", help="NAME of a file models/NAME.yaml; default: sd15")
    parser.add_argument("--pictures", type=int, default=1, choices=BATCHES, help="at once; default: 1")
    options = parser.parse_args()
    with one_line():
        device = choose_device("auto")
        if device.type != "cuda":
            raise ValueError("PyTorch finds no CUDA device, expected one: run this on a machine with a GPU")
        by_kind, by_op = costs(settle_architecture(options.architecture, device), options.pictures)
        heads = ["kernels", "ms", "calls", "us"]
        print(torch.cuda.get_device_name(device), *table(heads, by_kind), sep="\n")
        print("", *table(["op and shapes", *heads[1:], "TFLOP/s", "TB/s"], by_op[:10]), sep="\n")


if __name__ == "__main__":
    main()
