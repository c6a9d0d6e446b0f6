"""Creates the builder for a target's TensorRT engines, and registers the GroupNorm plugin if they use it."""

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

TIMES = "tensorrt.timing"  # the timing cache, in the parent of the engine folders; all builds share it


def make_builder(target: Target, device: torch.device) -> Builder:
    """Return the builder for the target's engines.

    Raise TensorRTError, with what to do, if no installed library builds for the GPUs, or if it cannot build engines
    with these options.
    """
    library = library_that_builds(device, target.targets)
    targets = (target.targets or (capability(device),)) if library.portable else ()
    builder = Builder(library, device, targets, bool(target.refit), target.folder.parent / TIMES)
    if library.portable and target.refit and not builder.runs:
        raise TensorRTError(
            f"{library.title} builds refittable engines only on a machine that can run them, and this one has no "
            f"{' or '.join(map(sm, targets))} GPU: leave out --refit"
        )
    if target.precision == "fp32" and (halves := [sm(one) for one in targets if one in library.half_only]):
        raise TensorRTError(
            f"{library.title} cannot multiply float32 matrices on {' and '.join(halves)}: choose --precision fp16"
        )
    return builder


def settle_plugins(target: Target, library: Library, strict: bool) -> Target:
    """Return the target, without plugins if its precision or the library does not support them.

    The log states why plugins are dropped; with `strict`, BuildError is raised instead.
    """
    if not target.plugins or (library.plugins and target.precision == "fp16"):
        return target
    reason = f"they need fp16, got {target.precision}" if library.plugins else f"{library.title} does not support them"
    if strict:
        raise BuildError(f"engines cannot be built with plugins: {reason}; leave out --plugins")
    log.warning("building without plugins: %s", reason)
    return replace(target, plugins=False)


def register_plugin(builder: Builder) -> None:
    """Register the GroupNorm plugin with TensorRT for this GPU. Raise BuildError, with the reason, if that fails."""
    if not builder.library.plugins:
        raise BuildError(f"{builder.library.title} does not support plugins: leave out --plugins")
    architecture = capability(builder.device)
    try:
        try_compiler(architecture)
        register(architecture)
    except Exception as error:  # TensorRT's registry may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BuildError(f"the GroupNorm plugin cannot be registered ({reason}): leave out --plugins") from error
