"""Nodes that only copy, and reshapes and transposes that undo each other."""

from __future__ import annotations

import numpy as np

from adfast.compiler.graph import Graph, Node


def remove_identities(graph: Graph) -> int:
    """Let users of a copy read the original; return how many nodes went."""
    count = 0
    for node in list(graph.nodes):
        count += _merge_with_producer(graph, node)
        if _is_copy(node):
            graph.replace(node.output, node.inputs[0])
            graph.remove(node)
            count += 1
    return count


def _is_copy(node: Node) -> bool:
    if node.op == "identity":
        return True
    if node.op in ("reshape", "slice", "resize_bilinear"):
        return node.inputs[0].shape == node.output.shape
    if node.op == "transpose":
        return node.attrs["order"] == sorted(node.attrs["order"])
    if node.op == "concat":
        return len(node.inputs) == 1
    if node.op in ("max_pool2d", "avg_pool2d"):
        attrs = node.attrs
        return attrs["kernel"] == attrs["strides"] == [1, 1] and not any(attrs["pads"])
    neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}.get(node.op)
    other = node.inputs[1] if neutral is not None else None
    return other is not None and other.is_constant and bool(np.all(other.array == neutral))


def _merge_with_producer(graph: Graph, node: Node) -> int:
    """Make a reshape of a reshape, or a transpose of a transpose, one step from the first input."""
    before = (
        graph.producer(node.inputs[0], node.op) if node.op in ("reshape", "transpose") else None
    )
    if before is None:
        return 0
    if node.op == "transpose":
        node.attrs["order"] = [before.attrs["order"][axis] for axis in node.attrs["order"]]
    node.inputs[0] = before.inputs[0]
    return 1
