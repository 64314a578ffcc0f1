"""The op table: what each op takes, its attributes, its limits, and the shapes it gives.

The table is the meaning of a plan's graph; the engine implements the same table. Shapes are
logical, as in ONNX, with a batch of 1: feature maps are [1,C,H,W], tokens [1,T,D]. Ops with
`engine=False` live inside the compiler only: the importer emits them and a pass replaces each of
them. Each family has a file, which enters its ops when it is imported.
"""

from adfast.compiler.ops import detector, shape  # noqa: F401
from adfast.compiler.ops.layers import ACTIVATIONS, LEVELS, SCALES
from adfast.compiler.ops.spec import (
    ARITHMETIC,
    REQUIRED,
    Attr,
    Input,
    Op,
    Shape,
    complete_attrs,
    expect_activations,
    infer,
    input_count,
    non_default_attrs,
    table,
)

__all__ = [
    "ACTIVATIONS",
    "ARITHMETIC",
    "LEVELS",
    "REQUIRED",
    "SCALES",
    "Attr",
    "Input",
    "Op",
    "Shape",
    "complete_attrs",
    "expect_activations",
    "infer",
    "input_count",
    "non_default_attrs",
    "table",
]
