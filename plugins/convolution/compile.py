"""What the convolution's kernel is compiled for."""

from dataclasses import dataclass
from typing import Any

from plugins.convolution.tiles import STEP, Sizes, Tile, choose
from plugins.hopper.compile import Kernel, cubin


@dataclass(frozen=True)
class ConvolutionKernel(Kernel):
    sizes: Sizes
    tile: Tile
    bias: bool
    residual: bool

    NAME = "canny2image_convolution"
    POINTERS = ("*fp16",) * 4  # bias, bias of the 1x1 convolution, residual and result; with fp8 also scales

    @property
    def boxes(self) -> list[list[int]]:
        """The shapes of TMA's loads: of weights, of as many rows of pixels as a tile has, and of those below.

        With a stride the kernel's rows share none. For extra channels also of their weights and pixels.
        """
        tile = self.tile
        pixels = [tile.pictures, tile.columns]
        below = [] if self.sizes.stride > 1 else [[tile.taps - 1, *pixels, tile.step]]
        extra = [[tile.outs, STEP], [tile.rows, *pixels, STEP]] if self.sizes.extra else []
        return [[tile.outs, tile.step], [tile.rows, *pixels, tile.step], *below, *extra]

    @property
    def types(self) -> list[str]:
        extra = 2 if self.sizes.extra else 0
        return ["fp8e4nv" if self.tile.fp8 else "fp16"] * (len(self.boxes) - extra) + ["fp16"] * extra

    @property
    def pointers(self) -> tuple[str, ...]:
        return (*self.POINTERS, "*fp32") if self.tile.fp8 else self.POINTERS

    def constants(self) -> dict[str, int | float | None]:
        sizes, tile = self.sizes, self.tile
        unused = {} if sizes.extra else {"extra_weights_map": None, "extra_map": None}
        unused |= {} if sizes.stride == 1 else {"below_map": None}
        unused |= {} if tile.fp8 else {"scales": None}
        return unused | {
            "N": sizes.n, "H": sizes.h, "W": sizes.w, "CHANNELS": sizes.channels, "EXTRA": sizes.extra,
            "ALL_OUTS": sizes.outs, "TAPS": tile.taps, "ROWS": tile.rows, "PICTURES": tile.pictures,
            "COLUMNS": tile.columns, "OUTS": tile.outs, "STRIDE": tile.stride,
            "STAGES": tile.stages, "PARTS": tile.parts, "FP8": tile.fp8, "BIAS": self.bias, "RESIDUAL": self.residual,
        }  # fmt: skip

    def function(self) -> Any:
        from plugins.convolution.kernel import canny2image_convolution

        return canny2image_convolution


def check_compiler() -> None:
    """Compile small kernels, unless engine files hold them. Raises KernelError if this Triton cannot compile them."""
    for extra, taps, stride in ((0, 3, 1), (STEP, 3, 1), (0, 2, 1), (0, 3, 2)):
        sizes = Sizes(1, 4, 8, 2 * STEP, STEP, extra, taps, stride)
        cubin(ConvolutionKernel(sizes, choose(sizes), bias=True, residual=not extra and taps == 3))


def check_fp8_compiler() -> None:
    """As `check_compiler`, for e4m3."""
    for extra in (0, STEP):
        sizes = Sizes(1, 4, 8, 2 * STEP, STEP, extra, fp8=True)
        cubin(ConvolutionKernel(sizes, choose(sizes), bias=True, residual=not extra))
