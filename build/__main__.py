"""Builds the engines that this machine can have.

python -m build                       what this machine needs; nothing where eager is all there is
python -m build --backend inductor    compiled engines, for one size of pictures
python -m build --backend tensorrt    TensorRT's, for one size of pictures and one checkpoint
python -m build plans                 plans of fewer evaluations, found for one checkpoint
python -m build --check               tries all that TensorRT has to do here, and writes a report
"""

import argparse
import logging
import sys
from dataclasses import replace
from importlib.util import find_spec

import torch


def main(arguments: list[str] | None = None) -> int:
    """0 if all is there, 1 if an engine that was asked for could not be built or a check failed, 130 if stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["plans"]:
        from build.plans import main as find_plans  # only here: who needs no plans need not have what finds them

        return find_plans(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.backend == "inductor" and (options.check or options.refit):
        parser.error("--check and --refit are about backend tensorrt: leave out --backend inductor")
    if options.check:
        return _check(options)
    if options.backend == "auto" and not torch.cuda.is_available():
        print("engines: backend eager runs the PyTorch modules themselves; nothing to build (no CUDA device)")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Only here: who needs no engines need not have what builds them.
    from build.verify import BuildError
    from runtime.tensorrt_library import TensorRTError

    try:
        for backend in _backends(options):
            try:
                _build(options, backend)
                return 0
            except (ValueError, OSError, torch.OutOfMemoryError, BuildError, TensorRTError) as error:
                print(f"engines: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("engines: stopped, nothing was saved", file=sys.stderr)
        return 130
    if options.backend != "auto":
        return 1
    print("engines: none built; backend eager needs none")
    return 0


def _check(options: argparse.Namespace) -> int:
    from build.doctor import Case, examine, missing
    from cldm.checkpoint import find_checkpoint
    from cldm.engine_files import Target
    from runtime.backends import choose_device, choose_precision

    try:
        device = choose_device(options.device)
        if sentences := missing(device):
            print("\n".join(f"check: {sentence}" for sentence in sentences), file=sys.stderr)
            return 1
        precision = choose_precision(options.precision, device)
        architecture = options.architecture or find_checkpoint(options.checkpoint).architecture
        checkpoint = find_checkpoint(options.checkpoint or "random:0", architecture)
        size = options.height, options.width, options.samples
        target = Target(architecture, *size, precision.name, "tensorrt", plugins=options.plugins).of(checkpoint)
        return 0 if examine(Case(target, checkpoint, device)) else 1
    except (ValueError, OSError) as error:
        print(f"check: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("check: stopped, no report was written", file=sys.stderr)
        return 130


def _backends(options: argparse.Namespace) -> tuple[str, ...]:
    """What to try, one after another until one is built."""
    if options.backend != "auto":
        return (options.backend,)
    return ("tensorrt", "inductor") if find_spec("tensorrt") else ("inductor",)  # tensorrt_lean builds nothing


def _build(options: argparse.Namespace, backend: str) -> None:
    import build.inductor
    from build.verify import table
    from cldm.checkpoint import find_checkpoint
    from cldm.engine_files import Target, is_up_to_date
    from runtime.backends import choose_device, choose_precision

    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    architecture = options.architecture or find_checkpoint(options.checkpoint).architecture
    target = Target(architecture, options.height, options.width, options.samples, precision.name, backend)
    if backend == "tensorrt":
        checkpoint = find_checkpoint(options.checkpoint, options.architecture)
        target = replace(target.of(checkpoint), plugins=options.plugins, refit=options.refit)
    if not options.force and is_up_to_date(target, device):
        print(f"engines: up to date ({target.folder})")
        return
    if backend == "tensorrt":
        import build.tensorrt
        from build.compile import table as layers

        reports, measurements = build.tensorrt.build(target, checkpoint, device)
        print(layers(reports))
    else:
        measurements = build.inductor.build(target, device)
    print(table(measurements))
    print(f"engines: saved in {target.folder}")


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
        "--no-plugins",
        action="store_const",
        const=False,
        dest="plugins",
        help="tensorrt in fp16: GroupNorm in TensorRT's own layers, not in this project's kernel; kept until --force",
    )
    parser.add_argument(
        "--refit",
        action="store_const",
        const=True,
        help="tensorrt: engines that load_weights() can give other weights; may cost speed; kept until --force",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="build nothing to keep, but try all that TensorRT has to do here; by default with random weights",
    )
    parser.add_argument("--force", action="store_true", help="build even where engines are up to date")
    return parser


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
