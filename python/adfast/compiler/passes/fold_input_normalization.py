"""The network's own normalisation of the image moves into the frame op, which scales anyway.

Exact: only steps between the frame and everything that reads it move, never one behind a padded
convolution.
"""

from __future__ import annotations

import numpy as np

from adfast.compiler.graph import Graph, Node
from adfast.compiler.passes.common import array64, per_channel


def fold_input_normalization(graph: Graph) -> int:
    """Fold sub, div, mul, add and batch_norm on the frame; return how many nodes went."""
    count = 0
    for frame in [node for node in graph.nodes if node.op == "frame"]:
        while True:
            user = graph.only_user(frame.output)
            change = None if user is None else _affine(user)
            if change is None:
                break
            scale = np.array(frame.attrs["scale"]) * change[0]
            bias = np.array(frame.attrs["bias"]) * change[0] + change[1]
            frame.attrs.update(scale=scale.tolist(), bias=bias.tolist())
            graph.replace(user.output, frame.output)
            graph.remove(user)
            count += 1
    return count


def _affine(node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Read a node as y = x * scale + bias per channel, if it is that."""
    if node.op == "batch_norm":
        gamma, beta, mean, variance = (array64(value) for value in node.inputs[1:])
        scale = gamma / np.sqrt(variance + node.attrs["eps"])
        return scale, beta - mean * scale
    if node.op not in ("add", "sub", "mul", "div"):
        return None
    number = per_channel(node.inputs[1], node.inputs[0])
    if number is None:
        return None
    one, zero = np.ones(3), np.zeros(3)
    return {
        "add": lambda: (one, number),
        "sub": lambda: (one, -number),
        "mul": lambda: (number, zero),
        "div": lambda: (one / number, zero),
    }[node.op]()
