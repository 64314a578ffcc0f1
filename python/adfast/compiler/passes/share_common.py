"""Nodes that compute the same from the same are computed once."""

from __future__ import annotations

import hashlib
from typing import Any

from adfast.compiler.graph import Graph, Value


def share_common(graph: Graph) -> int:
    """Let users of a repeated node read the first; return how many nodes went."""
    # The file stores equal constants once; here they only have to be seen as equal.
    names: dict[Any, int] = {}
    same: dict[Value, int] = {}
    for value in graph.constants():
        assert value.array is not None
        digest = hashlib.sha256(value.array.tobytes()).digest()
        same[value] = names.setdefault((value.shape, digest), len(names))
    seen: dict[Any, list[Value]] = {}
    count = 0
    for node in list(graph.nodes):
        attrs = tuple((key, str(value)) for key, value in sorted(node.attrs.items()))
        inputs = tuple(same.get(value, value) for value in node.inputs)
        first = seen.setdefault((node.op, attrs, inputs), node.outputs)
        if first is not node.outputs:
            for old, new in zip(node.outputs, first, strict=True):
                graph.replace(old, new)
            graph.remove(node)
            count += 1
    return count
