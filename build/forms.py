"""Replaces modules, before the export to ONNX, with forms that TensorRT computes accurately and fast.

Attention is exported as two matrix products and a softmax. TensorRT fuses them if it has a kernel. It has none for
float32 and for heads as wide as the VAE's: there it runs them one by one, and would reject ONNX's operator Attention.
GroupNorm in half precision becomes TensorRT's own layer, which computes the statistics in float32. LayerNorm is
computed in float32 between casts, because TensorRT decomposes it.
With plugins, a half-precision GroupNorm becomes a call of `canny2image::group_norm` (plugins/group_norm) instead. The
file also defines this function in ONNX, for runtimes without the plugin.
docs/tensorrt.md compares these forms with others by error and by compiled layers.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cldm.model import ControlLDM
from ldm.norm import GroupNorm
from ldm.vae import AttnBlock
from plugins.group_norm.tensorrt_plugin import PLUGIN

# onnxruntime runs this function instead of the plugin; so does TensorRT if the plugin is not registered. Types of Cast:
# 1 float, 9 bool, 10 half. The function must declare all attributes of its call, including plugin_namespace.
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
    """Exports a GroupNorm as a plugin call. TensorRT finds the plugin by `plugin_namespace` and the node's type.

    TensorRT reads `groups` and `silu` as arrays of one int32 and `eps` as an array of one float32, the types that the
    plugin registers.
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
    """Computes the softmax in float32: no fused kernel exists for a head of 512, so TensorRT uses this type."""

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
    """Convert the modules to these forms in place, and make self-attention use the checkpoint's unpacked weights.

    LayerNorms, their weights and the VAE's softmax become float32. plugins: half-precision GroupNorms become plugin
    calls.
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
