"""Every stage as an ONNX file, from which TensorRT builds its engine and which onnxruntime runs as it is.

Shapes are static and types are spelled out. Attention is written as two products and a softmax. TensorRT's compiler
fuses these where it has a kernel, and runs them one by one where it has none, in float32 and for heads as wide as the
VAE's; ONNX's operator Attention it refuses there. In half precision GroupNorm is TensorRT's own layer, which computes
its statistics in float32; LayerNorm, which TensorRT takes apart, computes in float32 between casts.
With plugins a GroupNorm in half precision is a call of `canny2image::group_norm` instead (plugins/group_norm), which is
also a function in the file for all that have no such plugin.
Weights have the checkpoint's names, so that engines can be refitted: `<key>` as it is there, `<key>.T` transposed.
docs/tensorrt.md compares these forms with others, by errors and by compiled layers.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from build.errors import BuildError
from cldm.model import ControlLDM
from cldm.stages import Stage, make_stages
from ldm.norm import GroupNorm
from ldm.vae import AttnBlock
from plugins.group_norm.tensorrt_plugin import PLUGIN
from runtime.spec import EngineSpec, allocate

# The first in which GroupNormalization has a scale per channel. TensorRT's parser reads 9 to 24.
OPSET = 21

# What onnxruntime runs for a call, and TensorRT where the plugin is not registered. As types: 1 float, 9 bool, 10 half.
# An operator's attributes must be named, plugin_namespace too.
DOMAIN = PLUGIN.split("::")[0]
FUNCTION = """
<domain: "canny2image", opset_import: ["": 21]>
group_norm <groups, eps, silu, plugin_namespace> (x, weight, bias) => (y)
{
    x32 = Cast <to = 1> (x)
    weight32 = Cast <to = 1> (weight)
    bias32 = Cast <to = 1> (bias)
    normal32 = GroupNormalization <num_groups: int = @groups, epsilon: float = @eps> (x32, weight32, bias32)
    normal = Cast <to = 10> (normal32)
    flag = Constant <value_int: int = @silu> ()
    has_silu = Cast <to = 9> (flag)
    sigmoid = Sigmoid (normal)
    with_silu = Mul (normal, sigmoid)
    y = Where (has_silu, with_silu, normal)
}
"""


class ExportError(BuildError):
    """A stage cannot be written as ONNX."""


class PluginGroupNorm(GroupNorm):
    """A call of the plugin, for the exporter alone. TensorRT looks it up by `plugin_namespace` and the node's type.

    It reads `groups` and `silu` as arrays of one int32 and `eps` as one of one float32, as the plugin registers them.
    """

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        x = x if shift is None else x + shift[..., None, None]
        return torch.onnx.ops.symbolic(
            PLUGIN,
            (x, self.weight, self.bias),
            {"groups": self.num_groups, "eps": self.eps, "silu": int(self.silu), "plugin_namespace": DOMAIN},
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )


class Float32LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class Float32SoftmaxAttention(AttnBlock):
    """The VAE's head of 512 has no fused kernel: the softmax is a kernel of its own, in the type written here."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(conv(h), "n c h w -> n (h w) c") for conv in (self.q, self.k, self.v))
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
        attention = torch.softmax(logits.float(), dim=-1).to(v.dtype)
        return x + self.proj_out(rearrange(attention @ v, "n (h w) c -> n c h w", h=x.shape[2]))


EXACT: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: Float32LayerNorm,
    AttnBlock: Float32SoftmaxAttention,
}


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


def spell_out(model: ControlLDM, plugins: bool) -> None:
    """Let modules compute as the file shall say, and self-attention use the checkpoint's own weights.

    LayerNorms and their weights become float32, as does the softmax of the VAE. plugins: GroupNorms in half precision
    are calls of the plugin.
    """
    for module in model.modules():
        if better := EXACT.get(type(module)):
            module.__class__ = better
        if isinstance(module, nn.LayerNorm):
            module.float()
        elif plugins and type(module) is GroupNorm and module.weight.dtype == torch.float16:
            module.__class__ = PluginGroupNorm
    for transformer in (*model.control.transformers(), *model.unet.transformers()):
        transformer.block.attn1.packed = None  # type: ignore[assignment]


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


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).digest()
