"""A plan's graph as the compiler's own, from the sections that the engine has checked."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from adfast.compiler import ops
from adfast.compiler.graph import Graph, Node, Value
from adfast.compiler.writer import CONSTANT, INT32
from adfast.plan_file import FLOAT, FLOATS, INT, INTS, STR


def graph_of(plan: Any, name: str = "plan") -> Graph:
    """Read the graph of a checked `_core.Plan`; constants are views into one copy of its weights.

    Raises:
        CompileError: the graph does not fit the op table: the plan is of a newer adfast.
    """
    weights = np.frombuffer(plan.section("weights"), np.uint8)
    reader = _Reader(plan.section("graph"))
    graph = Graph(name)
    values = [reader.value(weights) for _ in range(reader.count())]
    for value in values:
        graph.unique(value.name)
    for _ in range(reader.count()):
        op, node_name = reader.text(), reader.text()
        inputs = [None if i < 0 else values[i] for i in reader.ids()]
        outputs = [values[i] for i in reader.ids()]
        node = Node(op, inputs, ops.complete_attrs(op, reader.table()), node_name)
        node.inputs += [None] * (ops.input_count(op) - len(inputs))
        node.outputs = outputs
        for value in outputs:
            value.producer = node
        graph.nodes.append(node)
    graph.inputs = [values[i] for i in reader.ids()]
    for _ in range(reader.count()):
        role = reader.text()
        graph.output(role, values[reader.number("i")])
    graph.check(engine_only=True)
    return graph


class _Reader:
    """Reads on through bytes; the engine has been through them before, so they are well formed."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def _take(self, layout: str) -> tuple:
        found = struct.unpack_from(f"<{layout}", self._data, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return found

    def number(self, kind: str) -> Any:
        return self._take(kind)[0]

    def count(self) -> int:
        return self.number("I")

    def text(self) -> str:
        size = self.count()
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def ids(self) -> tuple[int, ...]:
        return self._take(f"{self.count()}i")

    def table(self) -> dict[str, Any]:
        return {self.text(): self._field() for _ in range(self.count())}

    def _field(self) -> Any:
        kind = self.number("B")
        if kind == STR:
            return self.text()
        if kind in (INT, FLOAT):
            return self.number("q" if kind == INT else "d")
        assert kind in (INTS, FLOATS)
        return list(self._take(f"{self.count()}{'q' if kind == INTS else 'd'}"))

    def value(self, weights: np.ndarray) -> Value:
        name = self.text()
        element, kind, rank, _ = self._take("BBBB")
        value = Value(name, self._take(f"{rank}q"))
        if kind == CONSTANT:
            offset, size = self._take("QQ")
            dtype = "<i4" if element == INT32 else "<f4"
            value.array = weights[offset : offset + size].view(dtype).reshape(value.shape)
        return value
