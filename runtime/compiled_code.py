"""Code that Inductor compiles from a module. It can be saved, and loaded without tracing or compiling anything.

torch.compile would trace a module in every process, also if its kernels are cached: for the six stages at the real size
that takes most of half a minute. Here the module is traced once, by make_fx, with its weights as inputs. Engine files
hold what Inductor generated from the trace. On a GPU that is a function that runs without Inductor (`record_code.py`);
otherwise it is Inductor's artifact. That lacks the shared libraries that a C++ compiler made; they are files in
Inductor's cache.
"""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from runtime import generated_code
from runtime.record_code import UnknownForm, new_modules, record
from runtime.waiting_kernels import waiting_kernels

log = logging.getLogger(__name__)

# Older GPUs have no norms of ours. PyTorch 2.11 refuses its own if they read what one kernel copies (AssertionError in
# reorder_loops_by_dep_pair).
TOGETHER = (9, 0)

# PyTorch's compiler is imported where it is used: the import takes a second or two, and eager engines do not need it.


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
    """Runs a module and copies its results into buffers. The first run compiles it, unless `artifact` is given.

    A module with `takes_out` also gets the buffers, as `out`. It returns those that it has written its results into.
    artifact: as `load_code` returns it. Weights are inputs of the code: after new values are written into the module's
    parameters, it computes with them.
    """

    def __init__(self, module: nn.Module, tuning: Tuning, artifact: Any = None) -> None:
        self.module, self.tuning, self.artifact = module, tuning, artifact
        self.weights: list[Tensor] = []
        self.modules: list[ModuleType] = []  # that Inductor generated

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        arguments = self._arguments(inputs, outputs)
        if self.artifact is not None:
            self.artifact(*arguments)
            return
        with new_modules() as self.modules:
            self.artifact = self._compile(arguments, len(inputs))
            self.artifact(*arguments)

    def save(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bytes:
        """Return the code after its first run. On a GPU it runs once more.

        Raise RuntimeError if PyTorch cannot save it.
        """
        arguments = self._arguments(inputs, outputs)
        if arguments[0].is_cuda:
            try:
                return record(self.modules, arguments)
            except UnknownForm as error:
                log.warning("the code will be loaded by PyTorch's compiler, which takes seconds: %s", error)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "code"
            self.artifact.save(path=str(path), format="binary")
            return path.read_bytes()

    def _arguments(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
        self.weights = self.weights or [*_weights(self.module).values()]
        return [*self.weights, *inputs, *outputs]

    def _compile(self, arguments: list[Tensor], inputs: int) -> Any:
        from torch._inductor import standalone_compile
        from torch.fx.experimental.proxy_tensor import make_fx

        names = list(_weights(self.module))

        def run(*arguments: Tensor) -> tuple[()]:
            weights, rest = dict(zip(names, arguments, strict=False)), arguments[len(names) :]
            buffers = rest[inputs:]
            out = {"out": buffers} if getattr(self.module, "takes_out", False) else {}
            results = torch.func.functional_call(self.module, weights, rest[:inputs], out)
            copy_all([pair for pair in zip(buffers, results, strict=True) if pair[0] is not pair[1]])
            return ()

        traced = make_fx(run, tracing_mode="fake")(*arguments)
        call_ops_as_traced(traced)
        allow_other_layouts(traced)
        options = {"config_patches": self.tuning.options()}
        with waiting_kernels():
            return standalone_compile(traced, [*arguments], dynamic_shapes="from_example_inputs", options=options)


def copy_all(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy the second of each pair into the first; on newer GPUs and CPUs by one op.

    It becomes one kernel for all that none of Inductor's kernels computes: 9 results of the encoder.
    """
    buffers, results = [buffer for buffer, _ in pairs], [result for _, result in pairs]
    if pairs and not (buffers[0].is_cuda and torch.cuda.get_device_capability(buffers[0].device) < TOGETHER):
        torch._foreach_copy_(buffers, results)
        return
    for buffer, result in pairs:
        buffer.copy_(result)


def call_ops_as_traced(traced: GraphModule) -> None:
    """Let Inductor call the custom ops of a trace with inputs in the layouts that were traced.

    Inductor registers unknown ops itself, but then takes their layouts from metadata that a trace by make_fx lacks, and
    may choose others. PyTorch 2.11 also writes a description of the inputs, which doubles with each op in a row.
    """
    from torch._inductor.lowering import constrain_to_fx_strides, lowerings, make_fallback

    for op in {node.target for node in traced.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}:
        if op.namespace == "canny2image" and op not in lowerings:
            make_fallback(op, constrain_to_fx_strides)


def allow_other_layouts(traced: GraphModule) -> None:
    """Let views copy where they must: Inductor computes PyTorch's norms itself, and their results in other layouts."""
    for node in traced.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    traced.recompile()


def load_code(saved: bytes) -> Any:
    """Return the code that `CompiledCode.save` saved, for the current device. Unknown bytes can raise any exception."""
    if generated_code.is_packed(saved):
        return generated_code.load(saved)
    from torch._inductor.standalone_compile import CompiledArtifact

    with tempfile.NamedTemporaryFile() as file:
        file.write(saved)
        file.flush()
        return CompiledArtifact.load(path=file.name, format="binary")


def libraries(cache: Path) -> dict[str, bytes]:
    """Return the shared libraries in a folder that Inductor used as its cache, by their paths in it."""
    return {str(path.relative_to(cache)): path.read_bytes() for path in sorted(cache.rglob("*.so"))}


def install(libraries: Mapping[str, bytes]) -> None:
    """Write shared libraries into Inductor's cache, which `load_code` uses; those that are there already stay."""
    if not libraries:
        return
    from torch._inductor.codecache import write_atomic
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    for name, content in libraries.items():
        path = os.path.join(cache_dir(), name)
        if not os.path.exists(path):
            write_atomic(path, content, make_dirs=True)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
