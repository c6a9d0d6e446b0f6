"""Builds the engines that this machine can have.

python -m build                       what this machine needs; nothing where eager is all there is
python -m build --backend inductor    compiled engines, for one size of pictures
python -m build --backend tensorrt    TensorRT's, for one size of pictures and one checkpoint; with --target sm89 for
                                      RTX cards that are not here
python -m build plans                 plans of fewer evaluations, found for one checkpoint
python -m build --check               tries all that TensorRT can do here, and writes a report
"""

import argparse
import logging
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cldm.engine_files import Target

RTX = (86, 89, 120)  # what is checked without a GPU: RTX cards of the last three generations


def main(arguments: list[str] | None = None) -> int:
    """0 if all is there, 1 if an engine that was asked for could not be built or a check failed, 130 if stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["plans"]:
        from build.plans import main as find_plans  # imported lazily: dependencies of the search only

        return find_plans(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.backend == "inductor" and (options.check or options.refit or options.plugins or options.target):
        parser.error("--check, --target, --plugins and --refit are for backend tensorrt: leave out --backend inductor")
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):  # each of the exporter's passes logs what it did
        logging.getLogger(name).setLevel(logging.ERROR)
    if options.check:
        return _check(options)
    if options.backend == "auto" and not options.target and not torch.cuda.is_available():
        print("engines: backend eager runs the PyTorch modules themselves; nothing to build (no CUDA device)")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Imported lazily: build-only dependencies.
    from build.errors import BuildError
    from runtime.tensorrt_calls import TensorRTError

    try:
        for backend in _backends(options):
            try:
                _build(options, backend)
                return 0
            except (ValueError, OSError, torch.OutOfMemoryError, BuildError, TensorRTError) as error:
                if options.debug:
                    raise
                print(f"engines: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("engines: stopped, nothing was saved", file=sys.stderr)
        return 130
    if options.backend != "auto" or options.target:
        return 1
    print("engines: none built; backend eager needs none")
    return 0


def _check(options: argparse.Namespace) -> int:
    from build.checks import Case
    from build.compile import CompileOptions
    from build.doctor import examine, missing
    from build.tensorrt import make_builder
    from cldm.checkpoint import find_checkpoint
    from runtime.backends import choose_device
    from runtime.tensorrt_calls import TensorRTError

    try:
        if sentences := missing():
            print("\n".join(f"check: {sentence}" for sentence in sentences), file=sys.stderr)
            return 1
        device = choose_device(options.device)
        if device.type != "cuda" and not options.target:
            options.target = RTX
        architecture = options.architecture or find_checkpoint(options.checkpoint).architecture
        checkpoint = find_checkpoint(options.checkpoint or "random:0", architecture)
        target = replace(_target(options, "tensorrt", device, architecture), plugins=options.plugins).of(checkpoint)
        return 0 if examine(Case(target, checkpoint, make_builder(target, device, CompileOptions()))) else 1
    except (ValueError, OSError, TensorRTError) as error:
        if options.debug:
            raise
        print(f"check: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("check: stopped, no report was written", file=sys.stderr)
        return 130


def _backends(options: argparse.Namespace) -> tuple[str, ...]:
    """What to try, one after another until one is built."""
    from runtime.backends import choose_backends, choose_device

    if options.target:
        return ("tensorrt",)
    if options.backend != "auto":
        return (options.backend,)
    has_tensorrt = "tensorrt" in choose_backends("auto", choose_device(options.device))
    return ("tensorrt", "inductor") if has_tensorrt else ("inductor",)


def _build(options: argparse.Namespace, backend: str) -> None:
    import build.inductor
    from build.verify import table
    from cldm.checkpoint import find_checkpoint
    from cldm.engine_files import is_up_to_date
    from runtime.backends import choose_device
    from runtime.tensorrt_library import library_that_builds

    device = choose_device(options.device)
    architecture = options.architecture or find_checkpoint(options.checkpoint).architecture
    target, library = _target(options, backend, device, architecture), None
    if backend == "tensorrt":
        library = library_that_builds(device, target.targets)
        checkpoint = find_checkpoint(options.checkpoint, options.architecture)
        target = replace(target.of(checkpoint), plugins=options.plugins, refit=options.refit)
    if not options.force and is_up_to_date(target, device, library):
        print(f"engines: up to date ({target.folder})")
        return
    if backend == "tensorrt":
        import build.tensorrt
        from build.layers import table as layers

        reports, measurements = build.tensorrt.build(target, checkpoint, device, strict=options.strict)
        print(layers(reports))
    else:
        measurements = build.inductor.build(target, device)
    print(table(measurements))
    print(f"engines: saved in {target.folder}")


def _target(options: argparse.Namespace, backend: str, device: torch.device, architecture: str) -> "Target":
    from cldm.engine_files import Target
    from runtime.backends import choose_precision

    runs_on = torch.device("cuda") if options.target else device
    precision = choose_precision(options.precision, runs_on).name
    size = options.height, options.width, options.samples
    return Target(architecture, *size, precision, backend, targets=tuple(options.target))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build", description="Builds the engines for this machine.")
    parser.add_argument(
        "--backend",
        choices=("auto", "inductor", "tensorrt"),
        default="auto",
        help="auto: the best for this GPU. Where onnxruntime is installed it runs tensorrt's ONNX files as well, for a "
        "minute or two on the CPU",
    )
    parser.add_argument("--checkpoint", help="the weights; of them inductor takes the architecture alone")
    parser.add_argument("--architecture", help="a file of models/*.yaml; by default the checkpoint's")
    parser.add_argument("--height", type=_multiple_of_64, default=256, help="of the pictures")
    parser.add_argument("--width", type=_multiple_of_64, default=384, help="of the pictures")
    parser.add_argument("--samples", type=_positive, default=1, help="pictures per call")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or fp16")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--target",
        nargs="+",
        type=_capability,
        default=(),
        metavar="smXY",
        help="tensorrt: compute capabilities of GPUs that need not be here, such as sm86 (RTX 30), sm89 (RTX 40) and "
        "sm120 (RTX 50); needs TensorRT for RTX, and no GPU",
    )
    parser.add_argument(
        "--plugins",
        action="store_const",
        const=True,
        help="tensorrt in fp16: GroupNorm by this project's kernel; where that fails, TensorRT's own layers",
    )
    parser.add_argument("--strict", action="store_true", help="stop where --plugins fails")
    parser.add_argument(
        "--refit",
        action="store_const",
        const=True,
        help="tensorrt: engines that load_weights() can give other weights; may cost speed; kept until --force",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="build nothing to keep, but try all that TensorRT can do here; by default with random weights. Without a "
        "GPU for RTX cards of the last three generations",
    )
    parser.add_argument("--force", action="store_true", help="build even where engines are up to date")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _capability(text: str) -> int:
    found = re.fullmatch(r"(?:sm)?_?(\d+)\.?(\d)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"got {text}, expected a compute capability such as sm89")
    return int("".join(found.groups()))


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return int(text)


def _multiple_of_64(text: str) -> int:
    if int(text) % 64 or int(text) < 64:
        raise argparse.ArgumentTypeError(f"got {text}, expected a multiple of 64")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
