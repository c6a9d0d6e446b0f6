"""An engine that runs a module compiled by torch.compile, in fewer and faster kernels.

Inductor compiles at the first run, or uses the kernels of an earlier compilation if `runtime.artifacts.load` has loaded
them. Weights are inputs of the compiled code: after new values are written into the module's parameters, the same
kernels compute with them.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from types import FunctionType

import torch
from torch import Tensor, nn

from runtime.channels_last import channels_last
from runtime.engine import Engine, Stream
from runtime.fused_attention import fused_attention
from runtime.precision import full_float32
from runtime.spec import EngineSpec

Run = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


@dataclass(frozen=True)
class Tuning:
    """Options of torch.compile, under their own names, that control the search for faster kernels.

    The defaults are PyTorch's, except conv_1x1_as_mm. The manifest of engine files lists the values.
    """

    coordinate_descent_tuning: bool = False  # try block sizes for every Triton kernel
    max_autotune_gemm: bool = False  # compare Triton's matrix products with cuBLAS
    max_autotune_pointwise: bool = False
    conv_1x1_as_mm: bool = True  # compute 1x1 convolutions as matrix products

    def options(self) -> dict[str, bool]:
        return asdict(self)


class InductorEngine(Engine):
    """Compiles a module whose forward takes the spec's inputs and returns a tuple of the spec's outputs.

    On a CUDA device the module's convolution weights are converted to channels-last, in place.
    The first call of enqueue compiles (seconds to minutes), so it must come before capture into a CUDA graph.
    """

    def __init__(self, spec: EngineSpec, module: nn.Module, tuning: Tuning | None = None) -> None:
        self.spec = spec
        self.module = channels_last(module)
        self.run = _compiled(self.module, tuning or Tuning())
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        self.inputs, self.outputs = self.spec.pick(buffers)

    @torch.inference_mode()
    def enqueue(self, stream: Stream) -> None:
        # Compiled code and its cache entry are valid for one TF32 setting: compile, load and run under the same one.
        with full_float32(), fused_attention(), torch.cuda.stream(stream):
            self.run(self.inputs, self.outputs)


class CompiledEngines:
    """Creates the engines of one model. Engines with equal specs share the code compiled or loaded for the first."""

    def __init__(self) -> None:
        self.unbound: dict[EngineSpec, InductorEngine] = {}  # bound engines would keep a pipeline's buffers alive

    def __call__(self, spec: EngineSpec, module: nn.Module) -> InductorEngine:
        if spec not in self.unbound:
            self.unbound[spec] = InductorEngine(spec, module)
        return copy(self.unbound[spec])


def _compiled(module: nn.Module, tuning: Tuning) -> Run:
    """Return compiled code that runs the module and copies its results into the outputs.

    Inductor fuses these copies into the kernels that compute the results.
    """

    def run(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        for buffer, result in zip(outputs, module(*inputs), strict=True):
            buffer.copy_(result)

    return torch.compile(_own_code(run), fullgraph=True, dynamic=False, options={**tuning.options()})


def _own_code(function: Run) -> Run:
    """Return the function with a code object of its own.

    PyTorch stores compiled code per code object, with at most eight variants each. All closures of one definition share
    a code object, so two pipelines of six engines would exceed eight.
    """
    assert isinstance(function, FunctionType)
    return FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, closure=function.__closure__
    )
