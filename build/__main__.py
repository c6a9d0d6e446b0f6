"""Command line of the engine builder.

python -m build                       build the fastest engines for this machine; nothing without a CUDA device
python -m build --backend inductor    compile engines with torch.compile for one picture size
python -m build --backend tensorrt    build TensorRT engines for one picture size and one checkpoint; --target sm89
                                      builds for RTX cards that are not in this machine
python -m build plans                 search for plans with fewer evaluations, for one checkpoint
python -m build --check               test everything that TensorRT can do on this machine and write a report
"""

import argparse
import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from build.errors import BuildError
from build.options import ignored, make_parser
from files import LockedError, check_file, check_writable, locked
from runtime.backends import choose_backends, choose_device, choose_precision
from runtime.tensorrt_calls import TensorRTError

if TYPE_CHECKING:
    from cldm.engine_files import Target

ERRORS = (ValueError, OSError, torch.OutOfMemoryError, BuildError, TensorRTError)  # printed without a traceback
RTX = (86, 89, 120)  # default targets of --check without a GPU: the last three generations of RTX cards


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 on success, 1 on an error or a failed check, 130 after Ctrl-C.

    With --backend auto, status 0 does not mean that engines were built. Raise SystemExit(2) for invalid arguments.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["plans"]:
        from build.plans import main as find_plans  # imported lazily: dependencies of the search only

        return find_plans(arguments[1:])
    parser = make_parser()
    options = parser.parse_args(arguments)
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):  # the exporter logs every pass
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # PyTorch's exporter uses what PyTorch deprecated
    subject, nothing = ("check", "no report was written") if options.check else ("engines", "no engines were saved")
    try:
        backends = _backends(options)
        if sentence := ignored(options, backends):
            parser.error(sentence)
        return _check(options) if options.check else _build(options, backends)
    except ERRORS as error:
        if options.debug:
            raise
        print(f"{subject}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{subject}: stopped, {nothing}", file=sys.stderr)
        return 130


def _check(options: argparse.Namespace) -> int:
    # Imported lazily: --backend auto without a GPU needs none of these packages.
    from build.builder import make_builder
    from build.case import Case
    from build.doctor import REPORT, examine
    from build.export import check_exporter
    from cldm.checkpoint_choice import find_checkpoint

    check_file(REPORT)
    device = choose_device(options.device)
    if device.type != "cuda" and not options.target:
        options.target = RTX
    architecture = options.architecture or find_checkpoint(options.checkpoint).architecture
    target = _target(options, "tensorrt", device, architecture)
    checkpoint = find_checkpoint(options.checkpoint or "random:0", architecture, options.vae)
    target = target.of(checkpoint)
    builder = replace(make_builder(target, device), timing_cache=None)
    check_exporter(builder.library.extra)
    return 0 if examine(Case(target, checkpoint, builder)) else 1


def _backends(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the backends to build for, in order of preference.

    For auto with --target or --check this is tensorrt; otherwise, for auto without a CUDA device, none.
    """
    if options.backend != "auto":
        return (options.backend,)
    if options.target or options.check:
        return ("tensorrt",)
    if not torch.cuda.is_available():
        return ()
    has_tensorrt = "tensorrt" in choose_backends("auto", choose_device(options.device))
    return ("tensorrt", "inductor") if has_tensorrt else ("inductor",)


def _build(options: argparse.Namespace, backends: tuple[str, ...]) -> int:
    """Build the engines of the first backend that succeeds; if none does, print that and return 0.

    Print the error of a backend that fails. Raise it instead with --backend, --target or --debug.
    """
    if not backends:
        print("engines: nothing to build without a CUDA device; backend eager needs no engines")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for backend in backends:
        try:
            _build_one(options, backend)
            return 0
        except LockedError:
            raise  # another backend would be built instead of the one that the other process builds
        except ERRORS as error:
            if options.backend != "auto" or options.target or options.debug:
                raise
            print(f"engines: {error}", file=sys.stderr)
    print("engines: none built; backend eager needs no engines")
    return 0


def _build_one(options: argparse.Namespace, backend: str) -> None:
    # Imported lazily: --backend auto without a GPU needs none of these packages.
    import build.inductor
    from build.measurement import table
    from cldm.checkpoint_choice import find_checkpoint
    from cldm.engine_files import is_up_to_date

    device = choose_device(options.device)
    if backend == "tensorrt" or not options.architecture:
        checkpoint = find_checkpoint(options.checkpoint, options.architecture, options.vae)
        options.architecture = checkpoint.architecture
    target, builder = _target(options, backend, device, options.architecture), None
    if backend == "tensorrt":
        import build.tensorrt
        from build.builder import make_builder, settle_plugins
        from build.layers import table as layers

        target = target.of(checkpoint)
        builder = make_builder(target, device)
        target = settle_plugins(target, builder.library, options.strict)
    if not options.force and is_up_to_date(target, device, builder.library if builder else None):
        print(f"engines: up to date ({target.folder})")
        return
    check_writable(target.folder.parent)
    with locked(target.folder.parent / f".{target.folder.name}.lock", "stop it"):
        _check_files(target.folder, builder.timing_cache if builder else None)
        if builder:
            reports, measurements = build.tensorrt.build(target, checkpoint, builder, options.strict)
            print(layers(reports))
        else:
            measurements = build.inductor.build(target, device)
    print(table(measurements))
    print(f"engines: saved in {target.folder}")


def _check_files(folder: Path, timing_cache: Path | None) -> None:
    """Raise OSError if the build could not write its files, without creating the folder."""
    from runtime.artifacts import FILE

    if folder.exists():
        check_writable(folder)
        check_file(folder / FILE)
    if timing_cache:
        check_file(timing_cache)


def _target(options: argparse.Namespace, backend: str, device: torch.device, architecture: str) -> "Target":
    from cldm.engine_files import Target
    from cldm.prompt_syntax import PromptSyntax

    syntax = PromptSyntax(options.prompt_syntax, options.prompt_chunks)
    if options.precision == "fp8" and (backend != "inductor" or device.type != "cuda"):
        raise ValueError(
            f"precision 'fp8': got backend {backend} and device {device}, expected inductor and an H100 or H200: use "
            "another precision"
        )
    precision = choose_precision(options.precision, torch.device("cuda") if options.target else device).name
    size = options.height, options.width, options.samples
    target = Target(architecture, *size, precision, backend, targets=tuple(options.target), syntax=syntax)
    return replace(target, plugins=options.plugins, refit=options.refit)


if __name__ == "__main__":
    sys.exit(main())
