"""Checks that weights are inputs of compiled code.

Our kernels for products and convolutions start to load their weights before they wait for the previous kernel (see
`early_launch.py`), because no kernel of a picture writes weights. If the code computed them itself, for example in
another memory layout, a kernel could read them before they are written.
"""

import torch
from torch.fx import GraphModule, Node

OURS = "canny2image"  # the namespace of our ops


def check_weights(traced: GraphModule) -> None:
    """Raise RuntimeError if an argument of our ops that is named "...weight" is not an input, or a view of one."""
    for node in traced.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == OURS:
            names = [argument.name for argument in node.target._schema.arguments]
            for name, value in {**dict(zip(names, node.args, strict=False)), **node.kwargs}.items():
                if name.endswith("weight") and isinstance(value, Node) and _viewed(value).op != "placeholder":
                    raise RuntimeError(
                        f"{node.target} got {name} from {_viewed(value).target}, expected an input of the code or a "
                        "view of one: convert weights before they are compiled, as channels_last() does"
                    )


def _viewed(node: Node) -> Node:
    """Return what a node is a view of, or the node itself."""
    while isinstance(node.target, torch._ops.OpOverload) and node.args and isinstance(node.args[0], Node):
        alias = node.target._schema.arguments[0].alias_info
        if alias is None or alias.is_write:
            break
        node = node.args[0]
    return node
