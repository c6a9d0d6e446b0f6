"""Layers of the transformers that use our attention and our matrix products under torch.compile."""

import torch
from torch import Tensor, nn

from ldm.attention import GEGLU, Attention, FeedForward, ProjectOut
from ldm.vae import AttnBlock
from plugins.attention import fused_attend, short_attend
from plugins.compiling import compiles_half
from plugins.long_attention import op as long
from plugins.short_attention import op as short

MOST_ROWS = 4096  # the most that were measured: 3072
DEPTH = 32  # of products, or a multiple
SHARED = 232_448  # bytes of shared memory per block on a Hopper, for which the tiles were chosen


class FusedGEGLU(GEGLU):
    def forward(self, x: Tensor) -> Tensor:
        if not _fits(x, self.proj.in_features):
            return super().forward(x)
        from plugins.products import geglu  # imported here, because Triton takes seconds to import

        return geglu(x.flatten(0, 1), self.proj.weight, self.proj.bias).unflatten(0, x.shape[:2])


class FusedFeedForward(FeedForward):
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        if not _fits(x, self.out.in_features):
            return super().forward(x, residual)
        from plugins.products import linear_add

        rows = linear_add(self.net[0](x).flatten(0, 1), self.out.weight, self.out.bias, residual.flatten(0, 1))
        return rows.unflatten(0, x.shape[:2])


class FusedProjectOut(ProjectOut):
    def add_to(self, x: Tensor, tokens: Tensor) -> Tensor:
        if not _fits(tokens, self.in_channels):
            return super().add_to(x, tokens)
        from plugins.products import linear_add

        rows = x.permute(0, 2, 3, 1).flatten(0, 2)
        assert self.bias is not None, "the layer has one"
        result = linear_add(tokens.flatten(0, 1), self.weight.flatten(1), self.bias, rows.contiguous())
        return result.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    GEGLU: FusedGEGLU,
    FeedForward: FusedFeedForward,
    ProjectOut: FusedProjectOut,
}


def fuse_attention(model: nn.Module) -> None:
    """Let the transformers and the VAE of a model on a Hopper GPU use our attention, in place, if it compiles."""
    device = next(model.parameters()).device
    if short.runs_on(device):
        attend = fused_attend if long.runs_on(device) else short_attend
        for module in model.modules():
            if isinstance(module, Attention | AttnBlock):
                module.attend = attend


def fuse_products(model: nn.Module) -> None:
    """Turn layers of the transformers of a model on a GPU into those of FUSED, in place, if their tiles fit the GPU.

    Weights and names stay the same; results differ only by rounding.
    """
    if _tiles_fit(model):
        for module in model.modules():
            if fused := FUSED.get(type(module)):
                module.__class__ = fused


def _tiles_fit(model: nn.Module) -> bool:
    """Return whether the model's GPU has the shared memory that the tiles need: RTX cards and an A100 do not."""
    properties = torch.cuda.get_device_properties(next(model.parameters()).device)
    shared: int = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]  # PyTorch's types lack it
    return shared >= SHARED


def _fits(x: Tensor, depth: int) -> bool:
    return compiles_half(x) and x.shape[0] * x.shape[1] <= MOST_ROWS and depth % DEPTH == 0
