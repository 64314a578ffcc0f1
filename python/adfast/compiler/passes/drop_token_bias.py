"""The bias of a token's logits does nothing: softmax over pixels cancels what all pixels share."""

from __future__ import annotations

from adfast.compiler.graph import Graph


def drop_token_bias(graph: Graph) -> int:
    """Drop the bias of every token_attention; return how many went."""
    biased = [node for node in graph.nodes if node.op == "token_attention" and node.inputs[2]]
    for node in biased:
        node.inputs[2] = None
    return len(biased)
