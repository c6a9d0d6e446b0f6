"""Registers our kernels as torch ops of the namespace canny2image.

torch.library.custom_op does the same, but adds checks to each call and, to the first, an import of torch._dynamo, which
takes 0.8 s.
"""

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "canny2image"


class Op:
    """An op, called like the function that runs for tensors on a GPU; its name and signature are the function's."""

    def __init__(self, function: Callable[..., Any], mutated: tuple[str, ...]) -> None:
        self.function, self.name = function, f"{NAMESPACE}::{function.__name__}"
        schema = torch.library.infer_schema(function, mutates_args=mutated)
        torch.library.define(self.name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(self.name, "cuda", function)
        self.overload = getattr(getattr(torch.ops, NAMESPACE), function.__name__).default

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.overload(*arguments, **named)

    def on_cpu(self, function: Callable[..., Any]) -> None:
        """Let the op run this function for tensors on a CPU."""
        torch.library.impl(self.name, "cpu", function)

    def without_values(self, function: Callable[..., Any]) -> None:
        """Let the op run this function for tensors without values, as in tracing: it returns such results."""
        torch.library.register_fake(self.name, function)


def torch_op(*mutated: str) -> Callable[[Callable[..., Any]], Op]:
    """Return a decorator that makes a function an op. mutated: the arguments that it writes; it returns no views."""
    return lambda function: Op(function, mutated)
