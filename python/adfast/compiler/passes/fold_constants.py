"""Nodes that see constants only are computed now, unless that would blow up the plan."""

from __future__ import annotations

import math

from adfast.compiler import ops, reference
from adfast.compiler.graph import Graph, Node, Value
from adfast.compiler.passes.common import array64

# Bytes by which a folded result may exceed what it is made from (ours). A gather of positions for
# every window of an image is a hundred times its table; the engine repeats it in no time.
MAX_GROWTH = 4 << 20


def fold_constants(graph: Graph) -> int:
    """Replace each such node's outputs by constants; return how many nodes went."""
    count = 0
    for node in list(graph.nodes):
        operands = [value for value in node.inputs if value is not None]
        if not operands or not all(value.is_constant for value in operands):
            continue
        if not all(_may_be_constant(graph, value) for value in node.outputs):
            continue
        if ops.table[node.op].mixed and _growth(node) > MAX_GROWTH:
            continue  # the engine takes constants here
        arrays = [None if value is None else array64(value) for value in node.inputs]
        for old, array in zip(node.outputs, reference.evaluate(node, arrays), strict=True):
            graph.replace(old, graph.constant(f"{old.name}.constant", array))
            _put_second(graph)
        graph.remove(node)
        count += 1
    return count


def _growth(node: Node) -> int:
    def size(values: list[Value | None]) -> int:
        return 4 * sum(math.prod(value.shape) for value in values if value is not None)

    return size(node.outputs) - size(node.inputs)


def _may_be_constant(graph: Graph, value: Value) -> bool:
    """Whether those who read `value` have a form for a constant there."""
    ordered = (node for node in graph.users(value) if node.op in ("sub", "div"))
    return not graph.is_output(value) and all(
        node.inputs[0] is not value or node.inputs[1].is_constant for node in ordered
    )


def _put_second(graph: Graph) -> None:
    """Constants of commutative ops are their second input."""
    for node in graph.nodes:
        if node.op in ("add", "mul", "max", "min") and node.inputs[0].is_constant:
            node.inputs.reverse()
