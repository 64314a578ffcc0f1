"""Nodes that see constants only are computed now."""

from __future__ import annotations

from adfast.compiler import reference
from adfast.compiler.graph import Graph
from adfast.compiler.passes.common import array64


def fold_constants(graph: Graph) -> int:
    """Replace each such node's outputs by constants; return how many nodes went."""
    count = 0
    for node in list(graph.nodes):
        operands = [value for value in node.inputs if value is not None]
        if not operands or not all(value.is_constant for value in operands):
            continue
        arrays = [None if value is None else array64(value) for value in node.inputs]
        for old, array in zip(node.outputs, reference.evaluate(node, arrays), strict=True):
            graph.replace(old, graph.constant(f"{old.name}.constant", array))
        graph.remove(node)
        count += 1
    return count
