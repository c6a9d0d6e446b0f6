"""The engine that torch.compile makes: the same module in fewer and better kernels.

Inductor compiles at the first run. Where `runtime.artifacts.load` has handed it the files of an earlier compilation,
it takes the kernels from there. The weights stay inputs of the compiled code: whoever writes new values into the
module's parameters gets new results from the same kernels.
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
    """How long Inductor looks for better kernels: options of torch.compile under their own names.

    The defaults are PyTorch's, but for products instead of 1x1 convolutions. Each engine file says how it was made.
    """

    coordinate_descent_tuning: bool = False  # try block sizes for every Triton kernel
    max_autotune_gemm: bool = False  # Triton's matrix products against cuBLAS
    max_autotune_pointwise: bool = False
    conv_1x1_as_mm: bool = True  # 1x1 convolutions as matrix products

    def options(self) -> dict[str, bool]:
        return asdict(self)


class InductorEngine(Engine):
    """A compiled module whose forward takes the spec's inputs and returns a tuple of its outputs.

    On a CUDA device the module's convolution weights change to channels-last, in place.
    The first call of enqueue compiles (seconds to minutes), so it must come before a CUDA graph is recorded.
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
        # Compiled code is valid for one setting of TF32, under which it must be found again by whoever loads it.
        with full_float32(), fused_attention(), torch.cuda.stream(stream):
            self.run(self.inputs, self.outputs)


class CompiledEngines:
    """Makes engines of one model: further pipelines run the code that the first one loaded."""

    def __init__(self) -> None:
        self.unbound: dict[EngineSpec, InductorEngine] = {}  # else they would keep a pipeline's buffers alive

    def __call__(self, spec: EngineSpec, module: nn.Module) -> InductorEngine:
        if spec not in self.unbound:
            self.unbound[spec] = InductorEngine(spec, module)
        return copy(self.unbound[spec])


def _compiled(module: nn.Module, tuning: Tuning) -> Run:
    """Results are copied inside the compiled code, where the copy becomes part of the kernel that makes them."""

    def run(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        for buffer, result in zip(outputs, module(*inputs), strict=True):
            buffer.copy_(result)

    return torch.compile(_own_code(run), fullgraph=True, dynamic=False, options={**tuning.options()})


def _own_code(function: Run) -> Run:
    """The function with a code object that it shares with no other.

    PyTorch keeps what it compiled by code object, and at most eight variants of each. All closures of one definition
    share theirs, and so two pipelines of six engines would be too many.
    """
    assert isinstance(function, FunctionType)
    return FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, closure=function.__closure__
    )
