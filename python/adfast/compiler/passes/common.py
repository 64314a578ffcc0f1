"""What passes share: arithmetic on constants in float64, rounded once."""

from __future__ import annotations

import numpy as np

from adfast.compiler.graph import Graph, Node, Value


def array64(value: Value) -> np.ndarray:
    """Return a constant's content in float64."""
    assert value.array is not None
    return value.array.astype(np.float64)


def derived(graph: Graph, old: Value, array: np.ndarray, what: str = "folded") -> Value:
    """Add a constant computed from `old`, named after it."""
    return graph.constant(f"{old.name.removesuffix('.' + what)}.{what}", array)


def per_channel(value: Value, like: Value) -> np.ndarray | None:
    """Return a constant operand of `like` as one number per channel, or None if it is not that.

    Channels are axis 1 of [1,C,H,W] and the last axis of anything else.
    """
    channels = like.shape[1] if len(like.shape) == 4 else like.shape[-1]
    if value.array is None:
        return None
    if value.shape in ((), (1,)):
        return np.full(channels, float(value.array.reshape(-1)[0]))
    if value.shape == ((1, channels, 1, 1) if len(like.shape) == 4 else (channels,)):
        return array64(value).reshape(-1)
    return None


def bare(node: Node) -> bool:
    """Whether a conv2d or linear adds no residual and applies no activation yet."""
    return node.inputs[3] is None and node.attrs["activation"] == "none"
