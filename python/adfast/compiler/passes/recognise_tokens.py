"""Reshapes and transposes that move nothing: feature maps read as tokens, and back.

The engine stores [1,C,H,W] pixel by pixel, as [1,HW,C]. So a chain of reshapes and transposes is
free if its result, in that order, is its source in that order; which it is, the chain says itself
when it is run on the places of the source's elements.
"""

from __future__ import annotations

import math

import numpy as np

from adfast.compiler import reference
from adfast.compiler.graph import Graph, Node, Value

_MOVES = ("reshape", "transpose")


def recognise_tokens(graph: Graph) -> int:
    """Replace such chains by tokens, feature_map and view; return how many there were."""
    count = 0
    for node in [node for node in graph.nodes if node.op in _MOVES]:
        users = graph.users(node.output)
        if users and all(user.op in _MOVES for user in users) and not graph.is_output(node.output):
            continue  # not the end of its chain
        source, moved = _follow(graph, node)
        if source.is_constant or 0 in source.shape:
            continue
        places = np.arange(math.prod(source.shape)).reshape(source.shape)
        if np.array_equal(_stored(moved), _stored(places)):
            _replace(graph, node, source)
            count += 1
    return count


def _follow(graph: Graph, end: Node) -> tuple[Value, np.ndarray]:
    """Return what a chain begins with, and where each element of its end comes from."""
    chain = [end]
    while (before := graph.producer(chain[-1].inputs[0], *_MOVES)) is not None:
        chain.append(before)
    source = chain[-1].inputs[0]
    assert source is not None
    places = np.arange(math.prod(source.shape)).reshape(source.shape)
    for node in reversed(chain):
        (places,) = reference.evaluate(node, [places])
    return source, places


def _stored(array: np.ndarray) -> np.ndarray:
    """Return the elements in the order of the engine's memory."""
    return (array.transpose(0, 2, 3, 1) if array.ndim == 4 else array).reshape(-1)


def _replace(graph: Graph, end: Node, source: Value) -> None:
    shape = end.output.shape
    x = source
    steps: list[tuple[str, dict]] = []
    if len(source.shape) == 4:
        steps.append(("tokens", {}))
    flat = shape
    if len(shape) == 4:
        flat = (1, shape[2] * shape[3], shape[1])
    before = (1, math.prod(source.shape[2:]), source.shape[1]) if steps else source.shape
    if before != flat:
        steps.append(("view", {"shape": list(flat)}))
    if len(shape) == 4:
        steps.append(("feature_map", {"height": shape[2], "width": shape[3]}))
    for op, attrs in steps[:-1]:
        (x,) = graph.add(op, [x], attrs, name=f"{end.name}.{op}", path=end.path, before=end)
    unused = end.inputs[0]
    if steps:
        graph.rewrite(end, steps[-1][0], [x], steps[-1][1])
    else:
        graph.replace(end.output, source)
        graph.remove(end)
    while (node := graph.producer(unused, *_MOVES)) is not None:
        if graph.users(node.output) or graph.is_output(node.output):
            break
        unused = node.inputs[0]
        graph.remove(node)
