"""An activation is applied where the convolution's or linear layer's result is made."""

from __future__ import annotations

from adfast.compiler import ops
from adfast.compiler.graph import Graph


def fuse_activation(graph: Graph) -> int:
    """Fuse conv2d or linear + activation; return how many activations went."""
    count = 0
    for node in [node for node in graph.nodes if node.op in ops.ACTIVATIONS]:
        layer = graph.producer(node.inputs[0], "conv2d", "linear")
        if layer is None or layer.attrs["activation"] != "none":
            continue
        if graph.only_user(layer.output) is not node:
            continue
        attrs = {**layer.attrs, "activation": node.op}
        graph.rewrite(node, layer.op, layer.inputs, attrs, like=layer)
        graph.remove(layer)
        count += 1
    return count
