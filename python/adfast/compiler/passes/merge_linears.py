"""Two linear layers with nothing between them are one, where that is less work.

For GTrans: the key projection and the queries' weights that `reassociate_projector` puts behind it.
"""

from __future__ import annotations

import numpy as np

from adfast.compiler.graph import Graph, Node
from adfast.compiler.passes.common import array64, bare


def merge_linears(graph: Graph) -> int:
    """Merge a linear into the linears that alone read it; return how many went."""
    count = 0
    for first in [node for node in graph.nodes if node.op == "linear"]:
        users = graph.users(first.output)
        if graph.is_output(first.output) or not users or not bare(first):
            continue
        if not all(user.op == "linear" and user.inputs[0] is first.output for user in users):
            continue
        if any(user.inputs[3] is first.output for user in users):
            continue
        width, inputs = first.inputs[1].shape
        apart = width * inputs + sum(user.inputs[1].shape[0] * width for user in users)
        if sum(user.inputs[1].shape[0] * inputs for user in users) > apart:
            continue
        for user in users:
            _merge(graph, first, user)
        graph.remove(first)
        count += 1
    return count


def _merge(graph: Graph, first: Node, second: Node) -> None:
    x, weight, bias, _ = first.inputs
    _, outer, outer_bias, residual = second.inputs
    product = graph.constant(f"{second.name}.weight.merged", array64(outer) @ array64(weight))
    merged_bias = outer_bias
    if bias is not None:
        shift = array64(outer) @ array64(bias)
        shift = shift + (np.zeros(()) if outer_bias is None else array64(outer_bias))
        merged_bias = graph.constant(f"{second.name}.bias.merged", shift)
    second.inputs = [x, product, merged_bias, residual]
