"""Weights that layers derive from a checkpoint's weights, and that must be derived again when those change."""

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Derives(Protocol):
    def derive(self) -> None:
        """Compute the derived weights again, in place: captured graphs and compiled code read them."""


def derive_weights(model: nn.Module) -> None:
    """Derive the weights of all layers of a model again."""
    for module in model.modules():
        if isinstance(module, Derives):
            module.derive()
