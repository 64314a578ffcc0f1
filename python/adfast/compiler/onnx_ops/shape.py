"""ONNX ops that say of which shape values are, or move elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from adfast.compiler.graph import Value
from adfast.compiler.importer import Call, Unsupported
from adfast.compiler.onnx_ops.registry import onnx


@onnx("Identity", "Dropout")
def _identity(call: Call) -> Value:
    if len([name for name in call.node.output if name]) > 1:
        raise Unsupported("its mask output is not available")
    return call.add("identity", [call.value(0)])


@onnx("Cast", "CastLike")
def _cast(call: Call) -> Value:
    if call.op == "Cast" and call.attrs["to"] != 1:
        raise Unsupported("activations are float32; a cast to another type is not available")
    return call.add("identity", [call.value(0)])


@onnx("Shape")
def _shape(call: Call) -> list[np.ndarray]:
    shape = np.array(call.value(0).shape, np.int64)
    return [shape[call.attrs.get("start", 0) : call.attrs.get("end", len(shape))]]


@onnx("Size")
def _size(call: Call) -> list[np.ndarray]:
    return [np.array(math.prod(call.value(0).shape), np.int64)]


@onnx("Reshape")
def _reshape(call: Call) -> Value:
    x = call.value(0)
    wanted = [int(dim) for dim in call.constant(1, "shape")]
    if not call.attrs.get("allowzero", 0):
        wanted = [x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(wanted)]
    if wanted.count(-1) == 1:
        rest = math.prod(dim for dim in wanted if dim != -1)
        wanted[wanted.index(-1)] = math.prod(x.shape) // max(rest, 1)
    return call.shaped(x, wanted)


@onnx("Flatten")
def _flatten(call: Call) -> Value:
    x = call.value(0)
    axis = call.attrs.get("axis", 1) % (len(x.shape) + 1)
    return call.shaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@onnx("Squeeze")
def _squeeze(call: Call) -> Value:
    x = call.value(0)
    axes = axes_of(call, [axis for axis, dim in enumerate(x.shape) if dim == 1])
    if any(x.shape[axis] != 1 for axis in axes):
        raise Unsupported(f"axes {axes} of shape {x.shape} are not all 1 wide")
    return call.shaped(x, [dim for axis, dim in enumerate(x.shape) if axis not in axes])


@onnx("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    x = call.value(0)
    given = call.constant(1, "axes")
    axes = {int(axis) % (len(x.shape) + len(given)) for axis in given}
    rest = iter(x.shape)
    rank = len(x.shape) + len(given)
    return call.shaped(x, [1 if axis in axes else next(rest) for axis in range(rank)])


@onnx("Expand")
def _expand(call: Call) -> Value:
    x = call.value(0)
    wanted = np.broadcast_shapes(x.shape, tuple(int(dim) for dim in call.constant(1, "shape")))
    if math.prod(wanted) != math.prod(x.shape):
        raise Unsupported(f"an activation of shape {x.shape} cannot be repeated to {wanted}")
    return call.shaped(x, wanted)


@onnx("Transpose")
def _transpose(call: Call) -> Value:
    x = call.value(0)
    order = call.attrs.get("perm", list(range(len(x.shape)))[::-1])
    moved = [axis for axis in order if x.shape[axis] != 1]
    if moved == sorted(moved):
        return call.shaped(x, [x.shape[axis] for axis in order])
    return call.add("transpose", [x], order=order)


@onnx("Concat")
def _concat(call: Call) -> Value:
    values = call.values()
    return call.add("concat", values, axis=call.attrs["axis"] % len(values[0].shape))


@onnx("Split")
def _split(call: Call) -> list[Value]:
    x = call.value(0)
    axis = call.attrs.get("axis", 0) % len(x.shape)
    sizes = call.optional_constant(1, "sizes")
    if sizes is None:
        count = len(call.node.output)
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - each * index) for index in range(count)]
    ends = np.cumsum(sizes)
    return [
        _sliced(call, x, axis, int(end - size), int(end))
        for size, end in zip(sizes, ends, strict=True)
    ]


@onnx("Slice")
def _slice(call: Call) -> Value:
    x = call.value(0)
    starts, ends = call.constant(1, "starts"), call.constant(2, "ends")
    axes = call.optional_constant(3, "axes")
    steps = call.optional_constant(4, "steps")
    if steps is not None and any(step != 1 for step in steps):
        raise Unsupported(f"steps {steps.tolist()}; only a step of 1 is available")
    for axis, start, end in zip(
        range(len(starts)) if axes is None else axes, starts, ends, strict=True
    ):
        axis = int(axis) % len(x.shape)
        start, end, _ = slice(int(start), int(end)).indices(x.shape[axis])
        x = _sliced(call, x, axis, start, end)
    return x


def _sliced(call: Call, x: Value, axis: int, start: int, end: int) -> Value:
    if (start, end) == (0, x.shape[axis]):
        return x
    return call.add("slice", [x], axis=axis, start=start, end=end)


def axes_of(call: Call, default: Sequence[int]) -> list[int]:
    """Read axes from the second input or, before opset 18, an attribute; not negative, sorted."""
    rank = len(call.value(0).shape)
    given = call.attrs.get("axes")
    if given is None:
        array = call.optional_constant(1, "axes")
        given = default if array is None else array
    return sorted(int(axis) % rank for axis in given)
