"""A constant product or sum behind a convolution or linear layer goes into its weights and bias."""

from __future__ import annotations

import numpy as np

from adfast.compiler.graph import Graph
from adfast.compiler.passes.common import array64, bare, derived, per_channel


def fold_scale_and_bias(graph: Graph) -> int:
    """Fold add, sub, mul and div per channel; return how many nodes went."""
    count = 0
    for node in [node for node in graph.nodes if node.op in ("add", "sub", "mul", "div")]:
        layer = graph.producer(node.inputs[0], "conv2d", "linear")
        if layer is None or graph.only_user(layer.output) is not node or not bare(layer):
            continue
        number = per_channel(node.inputs[1], node.inputs[0])
        if number is None or (node.op == "div" and not number.all()):
            continue
        x, weight, bias, _ = layer.inputs
        shift = np.zeros(weight.shape[0]) if bias is None else array64(bias)
        if node.op in ("add", "sub"):
            shift = shift + number if node.op == "add" else shift - number
        else:
            scale = number if node.op == "mul" else 1.0 / number
            shift = shift * scale
            column = scale.reshape(-1, *[1] * (len(weight.shape) - 1))
            weight = derived(graph, weight, array64(weight) * column)
        has_bias = bias is not None or node.op in ("add", "sub")
        new_bias = graph.constant(f"{layer.name}.bias.folded", shift) if has_bias else None
        graph.rewrite(node, layer.op, [x, weight, new_bias], layer.attrs, like=layer)
        graph.remove(layer)
        count += 1
    return count
