"""Zeros around a feature map become the padding of the convolution or pool that reads it.

TensorFlow's "same" padding is asymmetric; exporters write it as a Pad of its own.
"""

from __future__ import annotations

from adfast.compiler.graph import Graph, Node


def fold_pad(graph: Graph) -> int:
    """Fold each pad that only convolutions and average pools read; return how many went."""
    count = 0
    for node in [node for node in graph.nodes if node.op == "pad"]:
        users = graph.users(node.output)
        if graph.is_output(node.output) or not all(_fits(user, node) for user in users):
            continue
        for user in users:
            pads = [a + b for a, b in zip(user.attrs["pads"], node.attrs["pads"], strict=True)]
            attrs = {**user.attrs, "pads": pads}
            if user.op == "avg_pool2d":
                attrs["count_include_pad"] = 1  # the zeros were part of its input
            graph.rewrite(user, user.op, [node.inputs[0], *user.inputs[1:]], attrs)
        graph.remove(node)
        count += 1
    return count


def _fits(user: Node, pad: Node) -> bool:
    if user.op == "conv2d":
        return user.inputs[3] is not pad.output
    if user.op != "avg_pool2d":
        return False
    kernel, before, more = user.attrs["kernel"], user.attrs["pads"], pad.attrs["pads"]
    counted = user.attrs["count_include_pad"] == 1 or not any(before)
    return counted and all(before[i] + more[i] < kernel[i % 2] for i in range(4))
