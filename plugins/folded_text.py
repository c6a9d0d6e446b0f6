"""CLIP's text encoder with its LayerNorms folded into the products around them: see `folded_norms.py`.

A layer is five kernels of ours and one for the activation, instead of ten or eleven and a memset.
"""

from collections.abc import Callable, Iterator
from typing import cast

from torch import Tensor, nn

from ldm.clip import CLIPText, Layer, quick_gelu
from plugins.compiling import compiles_half
from plugins.folded_norms import Folded
from plugins.product.op import norm_product, product_stats
from plugins.product.statistics import statistics
from plugins.product.tiles import Sizes, fits

Attend = Callable[[Tensor, Tensor, Tensor, int, bool], Tensor]  # q, k, v, heads, causal


class FoldedText(CLIPText):
    """A text encoder under torch.compile that has no kernels for its LayerNorms, except the last one."""

    folded: nn.ModuleList
    attend: Attend

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)
        n, positions, width = x.shape
        if not (compiles_half(x) and fits(Sizes(n * positions, width, 4 * width))):  # the widest product
            return super().forward(tokens)
        rows = x.flatten(0, 1)
        stats = statistics(rows)
        for layer, (of_attention, of_mlp) in self._with_folded():
            q, k, v = norm_product(rows, stats, *of_attention.arguments).unflatten(0, (n, -1)).chunk(3, dim=-1)
            attended = self.attend(q, k, v, layer.self_attn.heads, True).flatten(0, 1)
            out = layer.self_attn.out_proj
            rows, stats = product_stats(attended, out.weight, out.bias, rows)
            inner = quick_gelu(norm_product(rows, stats, *of_mlp.arguments))
            rows, stats = product_stats(inner, layer.mlp.fc2.weight, layer.mlp.fc2.bias, rows)
        return self.final_layer_norm(rows.unflatten(0, (n, -1)))

    def derive(self) -> None:
        """Compute the folded weights again, in place."""
        for layer, folded in self._with_folded():
            for one, source in zip(folded, sources(layer), strict=True):
                one.fold_again(*source)

    def _with_folded(self) -> Iterator[tuple[Layer, list[Folded]]]:
        return zip(self.layers, cast(list[list[Folded]], self.folded), strict=True)


def fold_text(model: nn.Module, attend: Attend) -> None:
    """Turn the text encoder of a model into a `FoldedText`, in place. attend: `plugins.short_attention.op.attention`.

    Weights and names stay the same; results differ only by rounding.
    """
    for module in list(model.modules()):
        if type(module) is CLIPText:
            module.__class__ = FoldedText
            each = [nn.ModuleList(Folded(*source) for source in sources(layer)) for layer in module.layers]
            text = cast(FoldedText, module)
            text.attend, text.folded = attend, nn.ModuleList(each)


def sources(layer: Layer) -> list[tuple[nn.LayerNorm, list[nn.Linear]]]:
    """Return the norms of a layer, each with the layers after it."""
    attention = layer.self_attn
    return [
        (layer.layer_norm1, [attention.q_proj, attention.k_proj, attention.v_proj]),
        (layer.layer_norm2, [layer.mlp.fc1]),
    ]
