"""How modules are written in an ONNX file for TensorRT, where that differs from how PyTorch computes them.

Attention is written as two products and a softmax. TensorRT's compiler fuses these where it has a kernel, and runs them
one by one where it has none, in float32 and for heads as wide as the VAE's; ONNX's operator Attention it refuses there.
In half precision GroupNorm is TensorRT's own layer, which computes its statistics in float32; LayerNorm, which TensorRT
takes apart, computes in float32 between casts.
With plugins a GroupNorm in half precision is a call of `canny2image::group_norm` instead (plugins/group_norm), which is
also a function in the file for all that have no such plugin.
docs/tensorrt.md compares these forms with others, by errors and by compiled layers.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cldm.model import ControlLDM
from ldm.norm import GroupNorm
from ldm.vae import AttnBlock
from plugins.group_norm.tensorrt_plugin import PLUGIN

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
