"""Queries of the projector are never made: `(W f + b) . k = f . (W^T k) + b . k`.

GTrans, eq. 12. There are thousands of pixels and a handful of tokens, so the tokens' keys are taken
to the space of the features instead.
"""

from __future__ import annotations

from adfast.compiler.graph import Graph
from adfast.compiler.passes.common import array64


def reassociate_projector(graph: Graph) -> int:
    """Replace query_projector_attention by projector_attention; return how many there were."""
    count = 0
    for node in [node for node in graph.nodes if node.op == "query_projector_attention"]:
        x, features, weight, bias, key, value = node.inputs
        turned = graph.constant(f"{weight.name}.transposed", array64(weight).T)
        (new_key,) = graph.add(
            "linear", [key, turned], name=f"{node.name}.key", path=node.path, before=node
        )
        key_bias = None
        if array64(bias).any():
            row = graph.constant(f"{bias.name}.row", array64(bias)[None, :])
            (key_bias,) = graph.add(
                "linear", [key, row], name=f"{node.name}.key_bias", path=node.path, before=node
            )
        inputs = [x, features, new_key, key_bias, value]
        graph.rewrite(node, "projector_attention", inputs, {"scale": node.attrs["scale"]})
        count += 1
    return count
