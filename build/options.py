"""Defines the options of `python -m build`, and rejects options that would have no effect."""

import argparse
import re
from collections.abc import Sequence


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build", description="Builds the engines for this machine.")
    add = parser.add_argument
    add("--backend", choices=("auto", "inductor", "tensorrt"), default="auto", help="auto: the fastest for this "
        "GPU. tensorrt also runs its ONNX files in onnxruntime, if installed: a minute or two on the CPU")  # fmt: skip
    add("--weights", "--checkpoint", dest="checkpoint", help="BASE, BASE:CONTROL (files or folders) or random:SEED; "
        "inductor uses only their architecture")  # fmt: skip
    add("--vae", help="tensorrt: file or folder with another VAE")
    add("--architecture", help="name of a file in models/*.yaml, without the suffix; by default the checkpoint's")
    add("--height", type=_multiple_of_64, default=256, help="of the pictures, in pixels; a multiple of 64")
    add("--width", type=_multiple_of_64, default=384, help="of the pictures, in pixels; a multiple of 64")
    add("--samples", type=_positive, default=1, help="pictures per call")
    add("--prompt-syntax", default="plain", help="plain or webui")
    add("--prompt-chunks", type=int, default=1, help="webui: chunks of 75 tokens per prompt, 1 to 8")
    add("--precision", default="auto", help="auto, fp32, fp16, or fp8 (for H100 and H200)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--force", action="store_true", help="build even if the engines are up to date")
    add("--debug", action="store_true", help="show the traceback of an error")
    # Options for TensorRT only.
    add("--target", nargs="+", type=_capability, default=(), metavar="smXY", help="tensorrt: build for GPUs of "
        "these compute capabilities, such as sm86 (RTX 30), sm89 (RTX 40) and sm120 (RTX 50); needs TensorRT for RTX, "
        "but no GPU")  # fmt: skip
    add("--plugins", action="store_const", const=True, help="tensorrt in fp16: use this project's GroupNorm kernel; "
        "if that fails, fall back to TensorRT's own layers")  # fmt: skip
    add("--strict", action="store_true", help="stop if --plugins fails, instead of falling back")
    add("--refit", action="store_const", const=True, help="tensorrt: let load_weights() replace the engines' "
        "weights; may be slower; later builds keep such engines until --force")  # fmt: skip
    add("--check", action="store_true", help="test everything that TensorRT can do here, without saving engines; by "
        "default with random weights. Without a GPU: for RTX cards of the last three generations")  # fmt: skip
    return parser


def ignored(options: argparse.Namespace, backends: Sequence[str]) -> str:
    """Return an error message if some options would have no effect with these backends, otherwise ""."""

    def given(*names: str) -> str:
        return " and ".join(f"--{name}" for name in names if getattr(options, name))

    if "tensorrt" not in backends and (useless := given("check", "target", "plugins", "refit", "vae")):
        built = " or ".join(backends) or "eager"
        return f"got {useless} with backend {built}, expected backend tensorrt: leave out {useless}"
    if options.check and (useless := given("force", "refit", "strict")):
        return f"got --check with {useless}; --check saves no engines and always runs all checks: leave out {useless}"
    if options.strict and not options.plugins:
        return "--strict has no effect without --plugins: leave it out, or add --plugins"
    return ""


def _capability(text: str) -> int:
    found = re.fullmatch(r"(?:sm)?_?(\d+)\.?(\d)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"got {text}, expected a compute capability such as sm89")
    return int("".join(found.groups()))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected a whole number of at least 1")
    return int(text)


def _multiple_of_64(text: str) -> int:
    if not text.isdecimal() or int(text) % 64 or int(text) < 64:
        raise argparse.ArgumentTypeError(f"got {text}, expected a multiple of 64")
    return int(text)
