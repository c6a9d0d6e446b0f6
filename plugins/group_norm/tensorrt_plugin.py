"""The kernel as a TensorRT plugin, `canny2image::group_norm`: its PTX is stored in the engine, no Python at run time.

No `from __future__ import annotations` here: TensorRT reads the annotations as types. Attributes are arrays of one
value, because scalar ones raise TypeError in TensorRT 10.16 with NumPy 2.4. Has not been built into an engine yet.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from plugins.group_norm.compile import NAME, Launch, choose_launch, compile_ptx

PLUGIN = "canny2image::group_norm"
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@cache
def register(architecture: int, lazy: bool = False) -> None:
    """Make the plugin known to TensorRT, once per process; the same once more changes nothing.

    Inputs x [n, c, h, w], weight [c] and bias [c], all float16; attributes groups (int32), eps (float32), silu (int32,
    0 or 1), each an array of one value; output like x. x may be contiguous, or channels-last (HWC8) where 8 divides c.
    architecture: compute capability of the GPU that will run the engine, 90 for 9.0. lazy: only when it is first used.
    Raises ImportError without TensorRT, ValueError if it is registered already, for another architecture.
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
        # HWC8 pads channels to a multiple of 8, and the kernel knows no padding.
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
        return NAME, compile_ptx(launch.defines, architecture).rstrip(b"\0"), parameters, arguments


def try_compiler(architecture: int) -> None:
    """Compile one kernel: once TensorRT asks for one, an error can no longer be told. Raises KernelError."""
    compile_ptx(choose_launch(1, 8, 8, 1, 1e-5, silu=True, channels_last=True, clusters=False).defines, architecture)


def _launch(
    shape: tuple[int, ...], groups: Ints, eps: Floats, silu: Ints, channels_last: bool, architecture: int
) -> tuple[int, Launch]:
    """Pixels of a map, and how the kernel is launched."""
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(
            f"{PLUGIN} got x of shape {list(shape)}, expected four sizes known when the engine is built: "
            "build it for fixed shapes"
        )
    n, channels, h, w = shape
    sizes = n, channels, h * w, int(groups[0]), float(eps[0]), bool(silu[0])
    return h * w, choose_launch(*sizes, channels_last=channels_last, clusters=architecture >= 90)
