"""ONNX ops of one or two elements at a time."""

from __future__ import annotations

import math

import numpy as np

from adfast.compiler.graph import Value
from adfast.compiler.importer import Call, Unsupported
from adfast.compiler.onnx_ops.registry import onnx


@onnx("Relu", "Sigmoid", "Tanh", "Sqrt", "Exp", "Abs", "Neg", "Erf")
def _unary(call: Call) -> Value:
    return call.add(call.op.lower(), [call.value(0)])


@onnx("Gelu")
def _gelu(call: Call) -> Value:
    if call.attrs.get("approximate", "none") != "none":
        raise Unsupported("the tanh approximation is not available; export with approximate='none'")
    return call.add("gelu", [call.value(0)])


@onnx("LeakyRelu")
def _leaky_relu(call: Call) -> Value:
    x, alpha = call.value(0), call.attrs.get("alpha", 0.01)
    if not 0 <= alpha <= 1:
        raise Unsupported(f"alpha is {alpha}, expected 0 to 1")
    scaled = call.add("mul", [x, call.new_constant("alpha", np.array(alpha))])
    return call.add("max", [x, scaled])


@onnx("Clip")
def _clip(call: Call) -> Value:
    x = call.value(0)
    for index, op in ((1, "max"), (2, "min")):
        bound = call.optional_constant(index, "bounds")
        if bound is not None:
            x = call.add(op, [x, call.new_constant(op, bound)])
    return x


@onnx("Pow")
def _pow(call: Call) -> Value:
    exponent = call.constant(1, "exponent")
    op = {2.0: "square", 0.5: "sqrt", 1.0: "identity"}.get(float(exponent.flat[0]))
    if op is None or exponent.size != 1:
        raise Unsupported(f"exponent {exponent.tolist()}; only 2, 1 and 0.5 are available")
    return call.add(op, [call.value(0)])


@onnx("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")
def _binary(call: Call) -> Value:
    op = "add" if call.op == "Sum" else call.op.lower()
    result = call.value(0)
    for index in range(1, len(call.node.input)):
        result = _combine(call, op, result, call.value(index))
    return result


def _combine(call: Call, op: str, a: Value, b: Value) -> Value:
    if a.is_constant:
        a, b = b, a
        if op == "sub":
            a, op = call.add("neg", [a]), "add"
        elif op == "div":
            raise Unsupported("a constant divided by an activation is not available")
    shape = np.broadcast_shapes(a.shape, b.shape)
    if op == "mul" and a.shape != shape == b.shape and not b.is_constant:
        a, b = b, a
    if op == "mul" and len(shape) == 4 and not b.is_constant and b.shape == (*shape[:2], 1, 1):
        return call.add(op, [a, b])
    if shape != a.shape:
        a = _matched(call, a, shape)
    if b.is_constant:
        return call.add(op, [a, _spread(call, b, a.shape)])
    return call.add(op, [a, _matched(call, b, shape)])


def _matched(call: Call, x: Value, shape: tuple[int, ...]) -> Value:
    if math.prod(x.shape) != math.prod(shape):
        raise Unsupported(
            f"an activation of shape {x.shape} cannot be repeated to {shape}; "
            "operands have one shape, or one of them is a constant"
        )
    return call.shaped(x, shape)


def _spread(call: Call, b: Value, shape: tuple[int, ...]) -> Value:
    """Bring a constant into a form of the op table: scalar, per channel, or whole."""
    array = b.array
    assert array is not None
    if array.size == 1:
        wanted = np.reshape(array, ())
    else:
        array = np.reshape(array, (1,) * (len(shape) - array.ndim) + array.shape)
        axis = 1 if len(shape) == 4 else len(shape) - 1
        per_channel = array.size == array.shape[axis]
        if per_channel:
            wanted = array.reshape((1, -1, 1, 1) if len(shape) == 4 else (-1,))
        elif len(shape) == 3 and array.shape == (1, *shape[1:]):
            wanted = array  # the same for every window; repeating it could take a lot of room
        else:
            wanted = np.broadcast_to(array, shape)
    return b if wanted.shape == b.shape else call.new_constant(b.name, wanted)
