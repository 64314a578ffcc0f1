"""Where the projector's result is only compared with its own queries' features, it is never stored.

GTrans, eq. 12 and 15-17: one pass over the features gives the map, the error and the cosine.
"""

from __future__ import annotations

from adfast.compiler.graph import Graph


def fuse_projector_score(graph: Graph) -> int:
    """Fuse projector_attention + score_map; return how many pairs there were."""
    count = 0
    for node in [node for node in graph.nodes if node.op == "score_map"]:
        for reference, made in (node.inputs, node.inputs[::-1]):
            projector = graph.producer(made, "projector_attention")
            if projector is None or projector.inputs[0] is not reference:
                continue
            if graph.only_user(made) is not node:
                continue
            attrs = {"scale": projector.attrs["scale"]}
            graph.rewrite(node, "projector_score_map", projector.inputs, attrs)
            graph.remove(projector)
            count += 1
            break
    return count
