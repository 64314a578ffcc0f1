"""A batch normalisation that stands alone becomes a product and a sum per channel."""

from __future__ import annotations

import numpy as np

from adfast.compiler.graph import Graph
from adfast.compiler.passes.common import array64


def lower_batch_norm(graph: Graph) -> int:
    """Replace each batch_norm of [1,C,H,W] or [1,C]; return how many there were."""
    count = 0
    for node in [node for node in graph.nodes if node.op == "batch_norm"]:
        x = node.inputs[0]
        if len(x.shape) not in (2, 4):
            continue  # no op scales axis 1 of tokens; refused by name at the end
        gamma, beta, mean, variance = (array64(value) for value in node.inputs[1:])
        scale = gamma / np.sqrt(variance + node.attrs["eps"])
        shape = (1, -1, 1, 1) if len(x.shape) == 4 else (-1,)
        factor = graph.constant(f"{node.name}.scale", scale.reshape(shape))
        shift = graph.constant(f"{node.name}.shift", (beta - mean * scale).reshape(shape))
        (product,) = graph.add(
            "mul", [x, factor], name=f"{node.name}.mul", path=node.path, before=node
        )
        graph.rewrite(node, "add", [product, shift])
        count += 1
    return count
