"""Nodes that no output depends on."""

from __future__ import annotations

from adfast.compiler.graph import Graph


def remove_dead(graph: Graph) -> int:
    """Remove them; return how many there were."""
    needed = set(graph.outputs.values())
    count = 0
    for node in reversed(list(graph.nodes)):
        if needed.isdisjoint(node.outputs):
            graph.remove(node)
            count += 1
        else:
            needed.update(value for value in node.inputs if value is not None)
    return count
