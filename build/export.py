"""Every stage as an ONNX file, from which TensorRT builds its engine and which onnxruntime runs as it is.

Shapes are static and types are spelled out, in the forms of build/forms.py.
Weights have the checkpoint's names, so that engines can be refitted: `<key>` as it is there, `<key>.T` transposed.
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
from cldm.stages import Stage, make_stages
from files import digest
from runtime.spec import EngineSpec, allocate

# The first in which GroupNormalization has a scale per channel. TensorRT's parser reads 9 to 24.
OPSET = 21


class ExportError(BuildError):
    """A stage cannot be written as ONNX."""


def check_exporter(extra: str) -> None:
    """Raises ExportError if what the exporter needs is not installed. extra: of pyproject.toml, which installs it."""
    if lacking := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ExportError(f"the ONNX exporter needs {' and '.join(lacking)}: run ./preprocess.sh {extra}")


def export(
    model: ControlLDM,
    size: tuple[int, int, int],
    folder: Path,
    plugins: bool = False,
    names: Collection[str] | None = None,
) -> Iterator[tuple[EngineSpec, Path]]:
    """Write `<stage>.onnx`, with its weights beside it, into an existing folder; yields each when it is written.

    model: in the precision that the engines shall have; `spell_out` changes it. size: height and width of the picture
    in pixels, samples. plugins: GroupNorm in half precision is a call of the plugin. names: of the stages, by default
    all.
    Raises ExportError with the exporter's reason.
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
    """What an exported file calls those of its weights that bear a checkpoint's keys."""
    import onnx  # comes with the exporter

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
    except RuntimeError as error:  # all errors of the exporter are
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(f"stage {spec.name} cannot be written as ONNX: {reason}") from error
    assert program is not None
    import onnx  # only here, as what comes with the exporter
    import onnx_ir

    _rename(program.model.graph, module, keys)
    if any(node.domain == DOMAIN for node in program.model.graph):
        function = onnx_ir.from_proto(onnx.parser.parse_function(FUNCTION))
        program.model.functions[function.identifier()] = function
    program.save(path, external_data=True)


@contextmanager
def _told_apart(module: nn.Module) -> Iterator[None]:
    """Other values in the weights meanwhile, no two the same; the file refers to the memory, and gets the true ones.

    The exporter keeps one of equal small tensors, such as biases that are still zero: under other weights they differ.
    Not in matrices, which it copies; learned ones differ anyway.
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
    """Give the weights the checkpoint's names. The exporter knows the stage's, and transposes those of products."""
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
