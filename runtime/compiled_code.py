"""Code that Inductor compiles from a module. It can be saved, and loaded without tracing the module again.

torch.compile would trace a module in every process, also if its kernels are cached: for the six stages at the real size
that takes most of half a minute. Here the module is traced once, by make_fx, with its weights as inputs, and Inductor's
artifact of the trace is what engine files hold.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import standalone_compile
from torch._inductor.standalone_compile import CompiledArtifact
from torch.fx.experimental.proxy_tensor import make_fx

from runtime.artifacts import EngineFileError


@dataclass(frozen=True)
class Tuning:
    """Options of Inductor, under their own names, that control the search for faster kernels.

    The defaults are PyTorch's, except conv_1x1_as_mm. The manifest of engine files lists the values.
    """

    coordinate_descent_tuning: bool = False  # try block sizes for every Triton kernel
    max_autotune_gemm: bool = False  # compare Triton's matrix products with cuBLAS
    max_autotune_pointwise: bool = False
    conv_1x1_as_mm: bool = True  # compute 1x1 convolutions as matrix products

    def options(self) -> dict[str, bool]:
        return asdict(self)


class CompiledCode:
    """Runs a module and copies its results into buffers. The first run compiles it, or loads `saved`.

    Weights are inputs of the code: after new values are written into the module's parameters, it computes with them.
    """

    def __init__(self, module: nn.Module, tuning: Tuning, saved: bytes | None) -> None:
        self.module, self.tuning, self.saved = module, tuning, saved
        self.artifact: Any = None  # torch._inductor.CompiledArtifact

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        arguments = [*_weights(self.module).values(), *inputs, *outputs]
        if self.artifact is None:
            self.artifact = self._compile(arguments, len(inputs)) if self.saved is None else _load(self.saved)
        self.artifact(*arguments)

    def save(self) -> bytes:
        """Return the code after its first run. Raise RuntimeError if PyTorch cannot save it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "code"
            self.artifact.save(path=str(path), format="binary")
            return path.read_bytes()

    def _compile(self, arguments: list[Tensor], inputs: int) -> Any:
        names = list(_weights(self.module))

        def run(*arguments: Tensor) -> tuple[()]:
            weights, rest = dict(zip(names, arguments, strict=False)), arguments[len(names) :]
            results = torch.func.functional_call(self.module, weights, rest[:inputs])
            for buffer, result in zip(rest[inputs:], results, strict=True):
                buffer.copy_(result)  # fused into the kernels that compute the results
            return ()

        traced = make_fx(run, tracing_mode="fake")(*arguments)
        options = {"config_patches": self.tuning.options()}
        return standalone_compile(traced, [*arguments], dynamic_shapes="from_example_inputs", options=options)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _load(saved: bytes) -> Any:
    """Return the artifact. Raise EngineFileError if PyTorch cannot read it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(saved)
        file.flush()
        try:
            return CompiledArtifact.load(path=file.name, format="binary")
        except Exception as error:  # unknown bytes can cause any exception
            reason = f"PyTorch cannot read the code of an engine ({type(error).__name__}): build the engine files again"
            raise EngineFileError(reason) from error
