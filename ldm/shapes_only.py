"""Models without values, for their names, shapes and types."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_only() -> Iterator[None]:
    """Create modules in this context on the meta device. On another, layers would draw from the global generator."""
    with torch.device("meta"), _Uninitialized():
        yield


class _Uninitialized(TorchFunctionMode):
    """Skips torch.nn.init and torch.arange, which on the meta device import PyTorch's compiler or SymPy for seconds."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        named = named or {}
        if getattr(function, "__module__", "") == "torch.nn.init":
            return named["tensor"] if "tensor" in named else arguments[0]
        if function is torch.arange and not named:
            return torch.empty(len(range(*arguments)), dtype=torch.int64)
        return function(*arguments, **named)
