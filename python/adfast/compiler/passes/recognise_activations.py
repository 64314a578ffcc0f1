"""Activations that exporters write out: x * sigmoid(x), and GELU by the error function."""

from __future__ import annotations

import math

import numpy as np

from adfast.compiler.graph import Graph, Node, Value


def recognise_activations(graph: Graph) -> int:
    """Replace the written-out form by `silu` or `gelu`; return how many were found."""
    count = 0
    for node in graph.nodes:
        if node.op != "mul":
            continue
        x = _silu_input(graph, node)
        op = "silu"
        if x is None:
            x, op = _gelu_input(graph, node), "gelu"
        if x is not None:
            graph.rewrite(node, op, [x])
            count += 1
    return count


def _silu_input(graph: Graph, node: Node) -> Value | None:
    for x, gate in (node.inputs, node.inputs[::-1]):
        sigmoid = graph.producer(gate, "sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is x:
            return x
    return None


def _gelu_input(graph: Graph, node: Node) -> Value | None:
    """0.5 * x * (1 + erf(x / sqrt(2))), the factor 0.5 in any of its places."""
    factors, half = _factors(graph, node.output)
    if not math.isclose(half, 0.5, rel_tol=1e-6) or len(factors) != 2:
        return None
    for x, one_plus in (factors, factors[::-1]):
        add = graph.producer(one_plus, "add")
        erf = graph.producer(add.inputs[0], "erf") if add else None
        if erf is None or _scalar(add.inputs[1]) != 1.0:
            continue
        inner, scale = _factors(graph, erf.inputs[0])
        if inner == [x] and math.isclose(scale, math.sqrt(0.5), rel_tol=1e-6):
            return x
    return None


def _factors(graph: Graph, value: Value) -> tuple[list[Value], float]:
    """Split a product into its activation factors and one number."""
    node = graph.producer(value, "mul", "div")
    if node is None:
        return [value], 1.0
    a, b = node.inputs
    number = _scalar(b)
    if number is not None:
        factors, scale = _factors(graph, a)
        return factors, scale * number if node.op == "mul" else scale / number
    if node.op == "div" or b.is_constant:
        return [value], 1.0
    (left, x), (right, y) = _factors(graph, a), _factors(graph, b)
    return left + right, x * y


def _scalar(value: Value) -> float | None:
    if value.array is None or value.array.size != 1:
        return None
    number = float(np.reshape(value.array, ()))
    return number if number != 0.0 else None
