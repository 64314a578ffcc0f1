"""Batch normalisation behind a convolution or linear layer goes into its weights and bias."""

from __future__ import annotations

import numpy as np

from adfast.compiler.graph import Graph
from adfast.compiler.passes.common import array64, bare, derived


def fold_batch_norm(graph: Graph) -> int:
    """Fold where the layer's result is read by the batch_norm alone; return how many went."""
    count = 0
    for node in [node for node in graph.nodes if node.op == "batch_norm"]:
        layer = graph.producer(node.inputs[0], "conv2d", "linear")
        # The channels of a rank-3 batch_norm are its axis 1, those of linear its last.
        if layer is None or (layer.op == "linear" and len(layer.output.shape) != 2):
            continue
        if graph.only_user(layer.output) is not node or not bare(layer):
            continue
        gamma, beta, mean, variance = (array64(value) for value in node.inputs[1:])
        scale = gamma / np.sqrt(variance + node.attrs["eps"])
        x, weight, bias, _ = layer.inputs
        shift = beta - mean * scale + (0.0 if bias is None else array64(bias) * scale)
        folded = array64(weight) * scale.reshape(-1, *[1] * (len(weight.shape) - 1))
        new_bias = graph.constant(f"{layer.name}.bias.folded", shift)
        graph.rewrite(
            node, layer.op, [x, derived(graph, weight, folded), new_bias], layer.attrs, like=layer
        )
        graph.remove(layer)
        count += 1
    return count
