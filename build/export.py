"""Exports each stage as an ONNX file. TensorRT builds an engine from it; onnxruntime can run it.

Shapes are static and types are explicit; build/forms.py replaces some modules first.
Weights have the checkpoint's names so that engines can be refitted: `<key>` unchanged, `<key>.T` transposed.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from build.errors import BuildError
from build.forms import DOMAIN, FUNCTION, spell_out
from cldm.model import ControlLDM
from cldm.stages import Size, Stage, make_stages
from files import digest
from runtime.spec import EngineSpec, allocate

# The first opset whose GroupNormalization has one scale per channel. TensorRT's parser reads opsets 9 to 24.
OPSET = 21


class ExportError(BuildError):
    """A stage cannot be exported to ONNX."""


def check_exporter(extra: str) -> None:
    """Raise ExportError if a package of the exporter is missing. extra: the pyproject.toml extra that installs it."""
    if lacking := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ExportError(f"the ONNX exporter needs {' and '.join(lacking)}: run ./preprocess.sh {extra}")


def export(
    model: ControlLDM,
    size: Size,
    folder: Path,
    plugins: bool = False,
    names: Collection[str] | None = None,
) -> Iterator[tuple[EngineSpec, Path]]:
    """Write `<stage>.onnx`, with its weights next to it, into an existing folder; yield spec and path of each file.

    A generator: a stage is exported when the iteration reaches it.
    model: in the precision of the engines; `spell_out` changes it in place. plugins: export half-precision
    GroupNorms as plugin calls. names: the stages to export, by default all.
    Raise ExportError with the exporter's reason.
    """
    stages = make_stages(model, *size)
    spell_out(model, plugins)
    buffers = allocate({name: stage.spec for name, stage in stages.items()}, torch.device("cpu"))
    keys = {id(tensor): key for key, tensor in model.state_dict(keep_vars=True).items()}
    for name in stages if names is None else names:
        path = folder / f"{name}.onnx"
        _export(stages[name], buffers, keys, path)
        yield stages[name].spec, path


def weight_names(path: Path, keys: Collection[str]) -> set[str]:
    """Return the names of the weights in an exported file that come from these checkpoint keys."""
    import onnx  # imported lazily: a dependency of the exporter

    names = {tensor.name for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    return {name for name in names if name in keys or name.removesuffix(".T") in keys}


def _export(stage: Stage, buffers: Mapping[str, Tensor], keys: Mapping[int, str], path: Path) -> None:
    spec, module = stage.spec, stage.module.eval()
    inputs, _ = spec.pick(buffers)
    try:
        with _told_apart(module):
            program = torch.onnx.export(
                module,
                tuple(inputs),
                dynamo=True,
                opset_version=OPSET,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                verbose=False,
            )
    except RuntimeError as error:  # base class of all errors of the exporter
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(f"stage {spec.name} cannot be exported to ONNX: {reason}") from error
    assert program is not None
    import onnx  # imported lazily: dependencies of the exporter
    import onnx_ir

    _rename(program.model.graph, module, keys)
    if any(node.domain == DOMAIN for node in program.model.graph):
        function = onnx_ir.from_proto(onnx.parser.parse_function(FUNCTION))
        program.model.functions[function.identifier()] = function
    program.save(path, external_data=True)


@contextmanager
def _told_apart(module: nn.Module) -> Iterator[None]:
    """Give all weights except matrices distinct values during the export, then restore them.

    Otherwise the exporter would merge equal small tensors, such as biases that are still zero but differ in other
    checkpoints. The exported program shares the weights' memory, so the file gets the restored values. Matrices need
    no change: the exporter copies them, and trained ones differ anyway.
    """
    values = [(tensor.data, tensor.data.clone()) for tensor in module.parameters() if tensor.dim() != 2]
    generator = torch.Generator().manual_seed(0)
    try:
        for tensor, _ in values:
            tensor.uniform_(1, 2, generator=generator)
        yield
    finally:
        for tensor, value in values:
            tensor.copy_(value)


def _rename(graph: Any, module: nn.Module, keys: Mapping[int, str]) -> None:
    """Rename the weights to the checkpoint's keys. The exporter uses the stage's names and transposes some matrices."""
    names = {name: keys[id(tensor)] for name, tensor in module.named_parameters() if id(tensor) in keys}
    transposed = {
        _digest(tensor.detach().T): f"{names[name]}.T"
        for name, tensor in module.named_parameters()
        if tensor.dim() == 2 and name in names
    }
    for name, value in list(graph.initializers.items()):
        wanted = names.get(name)
        if wanted is None and len(value.shape) == 2:
            wanted = transposed.get(_digest(torch.from_numpy(value.const_value.numpy())))
        if wanted is not None:
            value.name = wanted


def _digest(tensor: Tensor) -> str:
    return digest(tensor.contiguous().numpy().tobytes())
