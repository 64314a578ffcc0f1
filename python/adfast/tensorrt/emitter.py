"""Writing an ONNX graph in which every value has the element type that it was given.

TensorRT takes the types of such a graph as they stand ("strongly typed"): what is to run in half
precision must say so, node by node, and nothing is converted unasked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adfast.errors import CompileError

if TYPE_CHECKING:
    import onnx

#: Element types by their names in plans.
TYPES = {"f32": "FLOAT", "f16": "FLOAT16", "bf16": "BFLOAT16", "i8": "INT8", "bool": "BOOL"}

#: Of nodes that stand for plugins in libadfast_trt.so; TensorRT's parser knows them by their names.
PLUGIN_DOMAIN = "adfast"


@dataclass(frozen=True)
class Tensor:
    """A value of the ONNX graph: its name there, its element type (a key of `TYPES`), its shape."""

    name: str
    type: str
    shape: tuple[int, ...]


class Emitter:
    """Nodes and constants as they come; every name once, every cast and constant once."""

    def __init__(self, narrow: str, plugins: bool = False):
        """Begin an empty graph.

        Args:
            narrow: what products and feature maps are held in: "f32", "f16" or "bf16".
            plugins: whether there may be nodes that stand for plugins of `PLUGIN_DOMAIN`.
        """
        self.narrow = narrow
        self.plugins = plugins
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.scope = ""  # the plan's node that is being written
        self._names: set[str] = set()
        self._casts: dict[tuple[str, str], Tensor] = {}

    def unique(self, name: str) -> str:
        """Return `name`, with a number where it is taken; and take it."""
        base, number = name, 1
        while name in self._names:
            number += 1
            name = f"{base}.{number}"
        self._names.add(name)
        return name

    def op(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        element: str = "",
        **attrs: Any,
    ) -> Tensor:
        """Add a node and return its result.

        Args:
            kind: ONNX's name of the operator.
            inputs: its operands; None where one is absent.
            shape: of the result.
            element: type of the result; that of the first operand by default.
            attrs: ONNX attributes.
        """
        from onnx import helper

        first = inputs[0]
        assert first is not None
        name = self.unique(f"{self.scope}.{kind}")
        names = ["" if value is None else value.name for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], name=name, **attrs))
        return Tensor(name, element or first.type, tuple(int(side) for side in shape))

    def plugin(self, kind: str, inputs: Sequence[Tensor], shape: Sequence[int], **attrs: Any):
        """Add a node that stands for a plugin; its result is of the first operand's type."""
        made = self.op(kind, inputs, shape, **attrs)
        self.nodes[-1].domain = PLUGIN_DOMAIN
        return made

    def constant(self, label: str, array: Any, element: str) -> Tensor:
        """Add a constant of a floating-point type, of int8 or of bool.

        Raises:
            CompileError: a number is too large for f16.
        """
        from onnx import TensorProto, helper, numpy_helper

        name = self.unique(f"{self.scope}.{label}")
        array = np.asarray(array)
        if element == "bf16":
            plain = np.ascontiguousarray(array, np.float32)
            proto = helper.make_tensor(
                name, TensorProto.BFLOAT16, plain.shape, bf16_bytes(plain), raw=True
            )
        else:
            dtype = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "bool": np.bool_}[element]
            with np.errstate(over="ignore"):
                stored = array.astype(dtype)
            if element == "f16" and not np.isfinite(stored).all():
                raise CompileError(
                    f"{self.scope}: {label} holds {np.abs(array).max():.3g}, more than f16 does; "
                    "take --precision bf16"
                )
            proto = numpy_helper.from_array(stored, name)
        self.initializers.append(proto)
        return Tensor(name, element, array.shape)

    def integers(self, label: str, values: Any) -> Tensor:
        """Add a constant of int64: a shape, axes, or rows to gather."""
        from onnx import numpy_helper

        array = np.asarray(values, np.int64)
        name = self.unique(f"{self.scope}.{label}")
        self.initializers.append(numpy_helper.from_array(array, name))
        return Tensor(name, "i64", array.shape)

    def cast(self, value: Tensor, element: str) -> Tensor:
        """Return the value in another type; itself where it is of that type."""
        if value.type == element:
            return value
        made = self._casts.get((value.name, element))
        if made is None:
            made = self.op("Cast", [value], value.shape, element, to=onnx_type(element))
            self._casts[value.name, element] = made
        return made

    # What several ops are made of.

    def reshape(self, value: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the elements in another shape."""
        if value.shape == tuple(shape):
            return value
        return self.op("Reshape", [value, self.integers("shape", shape)], shape)

    def transpose(self, value: Tensor, order: Sequence[int]) -> Tensor:
        """Return the axes in another order."""
        shape = [value.shape[axis] for axis in order]
        return self.op("Transpose", [value], shape, perm=list(order))

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the product of the last two axes, the others broadcast."""
        outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return self.op("MatMul", [a, b], (*outer, a.shape[-2], b.shape[-1]))

    def binary(self, kind: str, a: Tensor, b: Tensor, element: str = "") -> Tensor:
        """Return an elementwise result, shapes broadcast."""
        return self.op(kind, [a, b], np.broadcast_shapes(a.shape, b.shape), element)

    def scaled(self, value: Tensor, factor: float) -> Tensor:
        """Return the value times a number."""
        if factor == 1:
            return value
        return self.binary("Mul", value, self.constant("factor", np.float32(factor), value.type))

    def softmax(self, value: Tensor, axis: int) -> Tensor:
        """Return the softmax over an axis, in f32."""
        return self.op("Softmax", [self.cast(value, "f32")], value.shape, axis=axis)

    def reduce(self, kind: str, value: Tensor, axes: Sequence[int], keep: int) -> Tensor:
        """Return ReduceSum, ReduceMean or ReduceMax over axes, in f32."""
        value = self.cast(value, "f32")
        axes = [axis % len(value.shape) for axis in axes]
        shape = [1 if i in axes else side for i, side in enumerate(value.shape)]
        if not keep:
            shape = [side for i, side in enumerate(value.shape) if i not in axes]
        return self.op(kind, [value, self.integers("axes", axes)], shape, keepdims=keep)


def onnx_type(element: str) -> int:
    """Return ONNX's number of an element type."""
    from onnx import TensorProto

    return getattr(TensorProto, TYPES[element])


def bf16_bytes(array: np.ndarray) -> bytes:
    """Round f32 to bf16, nearest, ties to even; return the bytes."""
    bits = array.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
