"""What builds a target's engines on this machine, and whether with GroupNorm's plugin."""

import logging
from dataclasses import replace

import torch

from build.compile import Builder
from build.errors import BuildError
from cldm.engine_files import Target
from plugins.group_norm.tensorrt_plugin import register, try_compiler
from runtime.tensorrt_calls import TensorRTError
from runtime.tensorrt_library import Library, capability, library_that_builds, sm

log = logging.getLogger(__name__)

TIMES = "tensorrt.timing"  # beside the engines, for all of them


def make_builder(target: Target, device: torch.device) -> Builder:
    """What builds the target's engines here. Raises TensorRTError if nothing does, with what to install or to do."""
    library = library_that_builds(device, target.targets)
    targets = (target.targets or (capability(device),)) if library.portable else ()
    builder = Builder(library, device, targets, bool(target.refit), target.folder.parent / TIMES)
    if library.portable and target.refit and not builder.runs:
        raise TensorRTError(
            f"{library.title} builds refittable engines only on a machine that runs them, and no GPU of "
            f"{' or '.join(map(sm, targets))} is here: leave out --refit"
        )
    if target.precision == "fp32" and (halves := [sm(one) for one in targets if one in library.half_only]):
        raise TensorRTError(
            f"{library.title} multiplies no float32 matrices on {' and '.join(halves)}: choose --precision fp16"
        )
    return builder


def settle_plugins(target: Target, library: Library, strict: bool) -> Target:
    """The target without plugins where it cannot have them, which is logged; strict: raises BuildError instead."""
    if not target.plugins or (library.plugins and target.precision == "fp16"):
        return target
    reason = f"precision {target.precision} has none" if library.plugins else f"{library.title} takes none"
    if strict:
        raise BuildError(f"engines with plugins cannot be built, {reason}: leave out --plugins")
    log.warning("building without plugins: %s", reason)
    return replace(target, plugins=False)


def register_plugin(builder: Builder) -> None:
    """Make GroupNorm's plugin known to TensorRT, for this GPU. Raises BuildError with the reason."""
    if not builder.library.plugins:
        raise BuildError(f"{builder.library.title} takes no plugins: leave out --plugins")
    architecture = capability(builder.device)
    try:
        try_compiler(architecture)
        register(architecture)
    except Exception as error:  # whatever TensorRT's registry raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BuildError(f"the plugin for GroupNorm cannot be registered ({reason}): leave out --plugins") from error
