"""How each supported ONNX op becomes ops of the graph: a file for each family."""

from __future__ import annotations

from adfast.compiler.onnx_ops import elementwise, functions, layers, reduce, shape  # noqa: F401
from adfast.compiler.onnx_ops.registry import FUNCTIONS, ONNX, Handler

__all__ = ["FUNCTIONS", "SUPPORTED", "find"]

# Evaluated when their inputs are constants, or when the shape alone decides.
_FOLDED = (
    "Constant",
    "ConstantOfShape",
    "Gather",
    "Range",
    "Shape",
    "Size",
    "Where",
    "Equal",
    "Tile",
)
SUPPORTED = {*ONNX, *_FOLDED, *(f"adfast.{name}" for name in FUNCTIONS)}


def find(domain: str, op: str) -> Handler | None:
    """Find the handler of an op; None when there is none."""
    if domain == "adfast":
        return FUNCTIONS.get(op)
    return ONNX.get(op) if domain in ("", "ai.onnx") else None
