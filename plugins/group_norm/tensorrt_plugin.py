"""Registers the kernel as TensorRT plugin `canny2image::group_norm`. Engines contain its PTX and run without Python.

No `from __future__ import annotations` here: TensorRT reads the annotations as types. Attributes are arrays of one
value, because scalars raise TypeError in TensorRT 10.16 with NumPy 2.4. No engine has been built with the plugin yet.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from plugins.group_norm.launch import NAME, SOURCE, Launch, choose_launch
from plugins.nvrtc import compile_ptx

PLUGIN = "canny2image::group_norm"
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@cache
def register(architecture: int, lazy: bool = False) -> None:
    """Register the plugin with TensorRT, once per process; another call with equal arguments does nothing.

    Inputs: x [n, c, h, w], weight [c] and bias [c], all float16. Attributes: groups (int32), eps (float32), silu
    (int32, 0 or 1), each an array of one value. Output: like x. x is contiguous, or channels-last (HWC8) if c is a
    multiple of 8. architecture: compute capability of the GPU that will run the engine, 90 for 9.0. lazy: register the
    plugin at its first use. Raises ImportError without TensorRT, ValueError if the plugin is already registered for
    another architecture.
    """
    import tensorrt as trt
    import tensorrt.plugin as trtp
    from tensorrt.plugin import TensorDesc

    @trtp.register(PLUGIN, lazy_register=lazy)
    def describe(
        x: TensorDesc, weight: TensorDesc, bias: TensorDesc, groups: Ints, eps: Floats, silu: Ints
    ) -> TensorDesc:
        return x.like()

    @trtp.autotune(PLUGIN)
    def formats(
        x: TensorDesc, weight: TensorDesc, bias: TensorDesc, groups: Ints, eps: Floats, silu: Ints,
        outputs: tuple[TensorDesc],
    ) -> list[trtp.AutoTuneCombination]:  # fmt: skip
        # HWC8 pads channels to a multiple of 8; the kernel does not support padding.
        layouts = ["LINEAR", "HWC8"] if x.shape[1] % 8 == 0 else ["LINEAR"]
        types = "FP16, FP16, FP16, FP16"
        return [trtp.AutoTuneCombination(types, f"{layout}, LINEAR, LINEAR, {layout}") for layout in layouts]

    @trtp.aot_impl(PLUGIN)
    def kernel(
        x: TensorDesc, weight: TensorDesc, bias: TensorDesc, groups: Ints, eps: Floats, silu: Ints,
        outputs: tuple[TensorDesc], tactic: int,
    ) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs]:  # fmt: skip
        channels_last = x.format == trt.TensorFormat.HWC8
        pixels, launch = _launch(tuple(x.shape), groups, eps, silu, channels_last, architecture)
        parameters = trtp.KernelLaunchParams(*launch.grid, block_x=launch.threads)
        arguments = trtp.SymIntExprs.from_tuple((trtp.SymInt32(pixels),))
        return NAME, compile_ptx(SOURCE, launch.defines, architecture).rstrip(b"\0"), parameters, arguments


def try_compiler(architecture: int) -> None:
    """Compile one kernel as a test, because errors during the build of an engine would not reach the user.

    Raises KernelError if NVRTC cannot be loaded or fails.
    """
    launch = choose_launch(1, 8, 8, 1, 1e-5, silu=True, channels_last=True, clusters=False)
    compile_ptx(SOURCE, launch.defines, architecture)


def _launch(
    shape: tuple[int, ...], groups: Ints, eps: Floats, silu: Ints, channels_last: bool, architecture: int
) -> tuple[int, Launch]:
    """Return the pixels per map and the launch parameters. Raises ValueError unless `shape` has four known sizes."""
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(
            f"{PLUGIN} got x of shape {list(shape)}, expected four dimensions known at build time: "
            "build the engine for fixed shapes"
        )
    n, channels, h, w = shape
    sizes = n, channels, h * w, int(groups[0]), float(eps[0]), bool(silu[0])
    return h * w, choose_launch(*sizes, channels_last=channels_last, clusters=architecture >= 90)
