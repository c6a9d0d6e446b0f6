"""Every stage as an ONNX file, from which TensorRT builds its engine and which onnxruntime runs as it is.

Shapes are static and types are spelled out. In half precision the norms still compute in float32, between casts, since
TensorRT no longer reads the attribute that says so. Attention is ONNX's own operator, which opset 23 brought; for an
older TensorRT opset 21 writes it as the products and the softmax that every version fuses.
The weights bear the checkpoint's names, so that engines can be refitted: `<key>` as it is there, `<key>.T` transposed.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from build.verify import BuildError
from cldm.model import ControlLDM
from cldm.stages import Stage, make_stages
from ldm.norm import GroupNorm
from runtime.spec import EngineSpec, allocate

OPSETS = (21, 23)
FLOAT = 1  # ONNX's number of the type float32


class ExportError(BuildError):
    """A stage cannot be written as ONNX."""


class Float32GroupNorm(GroupNorm):
    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        x = x if shift is None else x + shift[..., None, None]
        y = F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
        return F.silu(y) if self.silu else y


class Float32LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


NORMS: dict[type[nn.Module], type[nn.Module]] = {GroupNorm: Float32GroupNorm, nn.LayerNorm: Float32LayerNorm}


def export(
    model: ControlLDM,
    size: tuple[int, int, int],
    folder: Path,
    opset: int = OPSETS[-1],
    names: Collection[str] | None = None,
) -> Iterator[tuple[EngineSpec, Path]]:
    """Write `<stage>.onnx`, with its weights beside it, into an existing folder; yields each when it is written.

    model: in the precision that the engines shall have; its norms change to float32. size: height and width of the
    picture in pixels, samples. names: of the stages, by default all.
    Raises ExportError with the exporter's reason, and ValueError for another opset.
    """
    if opset not in OPSETS:
        raise ValueError(f"opset {opset}: expected {' or '.join(map(str, OPSETS))}")
    stages = make_stages(model, *size)
    exact_norms(model)
    buffers = allocate({name: stage.spec for name, stage in stages.items()}, torch.device("cpu"))
    keys = {id(tensor): key for key, tensor in model.state_dict(keep_vars=True).items()}
    for name in stages if names is None else names:
        path = folder / f"{name}.onnx"
        _export(stages[name], buffers, keys, path, opset)
        yield stages[name].spec, path


def weight_names(path: Path, keys: Collection[str]) -> set[str]:
    """What an exported file calls those of its weights that bear a checkpoint's keys."""
    import onnx  # comes with the exporter

    names = {tensor.name for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    return {name for name in names if name in keys or name.removesuffix(".T") in keys}


def exact_norms(model: ControlLDM) -> None:
    """Let all norms compute in float32, with float32 weights, and self-attention use the checkpoint's own weights."""
    for module in model.modules():
        if better := NORMS.get(type(module)):
            module.float().__class__ = better
    for transformer in (*model.control.transformers(), *model.unet.transformers()):
        transformer.self_attention.packed = None


def _export(stage: Stage, buffers: Mapping[str, Tensor], keys: Mapping[int, str], path: Path, opset: int) -> None:
    spec, module = stage.spec, stage.module.eval()
    inputs, _ = spec.pick(buffers)
    try:
        with _told_apart(module):
            program = torch.onnx.export(
                module,
                tuple(inputs),
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                verbose=False,
            )
    except RuntimeError as error:  # all errors of the exporter are
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(f"stage {spec.name} cannot be written as ONNX: {reason}") from error
    assert program is not None
    import onnx_ir  # comes with the exporter

    _rename(program.model.graph, module, keys)
    for node in program.model.graph:
        if node.op_type == "Attention":
            node.attributes.add(onnx_ir.AttrInt64("softmax_precision", FLOAT))
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


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).digest()
