"""A sum behind a convolution, linear layer or layer norm is made where their result is made."""

from __future__ import annotations

from adfast.compiler.graph import Graph, Node, Value
from adfast.compiler.passes.common import bare


def fuse_residual(graph: Graph) -> int:
    """Fuse conv2d, linear or layer_norm + add; return how many sums went."""
    count = 0
    for node in [node for node in graph.nodes if node.op == "add"]:
        layers = _candidates(graph, node)
        if not layers:
            continue
        # Of two, the later one: its residual is ready by then. The sum's place keeps the order
        # right.
        layer, residual = max(layers, key=lambda pair: graph.nodes.index(pair[0]))
        inputs = [*layer.inputs[:3], residual]
        graph.rewrite(node, layer.op, inputs, layer.attrs, like=layer)
        graph.remove(layer)
        count += 1
    return count


def _candidates(graph: Graph, add: Node) -> list[tuple[Node, Value]]:
    a, b = add.inputs
    if a.shape != b.shape or b.is_constant or a is b:
        return []
    found = []
    for value, other in ((a, b), (b, a)):
        layer = graph.producer(value, "conv2d", "linear", "layer_norm")
        if layer is None or graph.only_user(value) is not add or layer.inputs[3] is not None:
            continue
        if layer.op == "layer_norm" or bare(layer):
            found.append((layer, other))
    return found
