"""What moves, joins, cuts, reduces or resizes values."""

from __future__ import annotations

import math

from adfast.compiler.ops.spec import define, expect, expect_map, expect_shape
from adfast.errors import CompileError


def _tokens(inputs, attrs):
    _, channels, height, width = expect_map("tokens", "x", inputs[0])
    return [(1, height * width, channels)]


def _feature_map(inputs, attrs):
    shape, height, width = inputs[0].shape, attrs["height"], attrs["width"]
    expect(
        len(shape) == 3 and shape[0] == 1 and height >= 1 and shape[1] == height * width,
        f"feature_map: x has shape {shape}, expected [1,{height * width},C] for {height}x{width}",
    )
    return [(1, shape[2], height, width)]


# Between feature maps and tokens nothing moves: both lie in memory pixel by pixel.
define("tokens", "x", _tokens)
define("feature_map", "x", _feature_map, height="i", width="i")


def _view(inputs, attrs):
    old, new = inputs[0].shape, tuple(attrs["shape"])
    expect(
        math.prod(old) == math.prod(new) and 4 not in (len(old), len(new)),
        f"view: {old} into {new}; expected as many elements, and no feature map",
    )
    return [new]


define("view", "x", _view, shape="i[]")


def _depth_to_space(inputs, attrs):
    shape, block = expect_map("depth_to_space", "x", inputs[0]), attrs["block"]
    expect(
        block >= 1 and shape[1] % (block * block) == 0,
        f"depth_to_space: {shape[1]} channels do not divide into blocks of {block} x {block}",
    )
    return [(1, shape[1] // (block * block), shape[2] * block, shape[3] * block)]


# Channels are row, column, channel of a block: ONNX's mode DCR.
define("depth_to_space", "x", _depth_to_space, block="i")


def _concat(inputs, attrs):
    first, axis = inputs[0].shape, attrs["axis"]
    allowed = {3: (0, 1, 2), 4: (1,)}.get(len(first), ())
    expect(
        axis in allowed,
        f"concat: axis {axis} of {first}; expected any axis of rank 3 or axis 1 of rank 4",
    )
    for value in inputs:
        expected = (*first[:axis], *value.shape[axis : axis + 1], *first[axis + 1 :])
        expect_shape("concat", "input", value, expected)
        expect(
            len(first) == 3 or not value.is_constant,
            f"concat: input is the constant {value!r}; expected activations, or tokens",
        )
    total = sum(value.shape[axis] for value in inputs)
    return [(*first[:axis], total, *first[axis + 1 :])]


define("concat", "", _concat, variadic=True, mixed=True, axis="i")


def _slice(inputs, attrs):
    shape = inputs[0].shape
    axis, start, end = attrs["axis"], attrs["start"], attrs["end"]
    allowed = {3: (1, 2), 4: (1,)}.get(len(shape), ())
    expect(
        axis in allowed,
        f"slice: axis {axis} of {shape}; expected axis 1 or 2 of rank 3, or 1 of rank 4",
    )
    expect(
        0 <= start < end <= shape[axis],
        f"slice: {start} to {end} of an axis of {shape[axis]}",
    )
    return [(*shape[:axis], end - start, *shape[axis + 1 :])]


define("slice", "x", _slice, axis="i", start="i", end="i")


def _reduce(op):
    def infer(inputs, attrs):
        shape, axes, keep = inputs[0].shape, attrs["axes"], attrs["keepdims"]
        if len(shape) == 4 and shape[0] == 1 and axes == [1] and keep == 1:
            return [(1, 1, *shape[2:])]
        if len(shape) == 4 and shape[:2] == (1, 1) and axes == [1, 2, 3] and keep == 0:
            return [(1,)]
        if len(shape) == 3 and axes == [1] and keep == 0:
            return [(shape[0], shape[2])]
        raise CompileError(
            f"{op}: axes {axes}, keepdims {keep} of an input of shape {shape}; expected axis 1 of "
            "[1,C,H,W] with keepdims, or axes 1, 2, 3 of [1,1,H,W] or axis 1 of [W,t,D] without"
        )

    return infer


for _name in ("reduce_mean", "reduce_sum", "reduce_max"):
    define(_name, "x", _reduce(_name), axes="i[]", keepdims=("i", 1))


def _resize(op):
    def infer(inputs, attrs):
        shape = expect_map(op, "x", inputs[0])
        height, width = attrs["height"], attrs["width"]
        expect(height >= 1 and width >= 1, f"{op}: the result would be {height}x{width}")
        return [(1, shape[1], height, width)]

    return infer


define(
    "resize_bilinear",
    "x",
    _resize("resize_bilinear"),
    height="i",
    width="i",
    align_corners=("i", 0),
)
define("resize_nearest", "x", _resize("resize_nearest"), height="i", width="i")


def _reflection_pad2d(inputs, attrs):
    shape = expect_map("reflection_pad2d", "x", inputs[0])
    top, left, bottom, right = attrs["pads"]
    expect(
        min(attrs["pads"]) >= 0 and max(top, bottom) < shape[2] and max(left, right) < shape[3],
        f"reflection_pad2d: pads are {attrs['pads']}, expected none below 0 and each smaller than "
        f"the side of {shape} that it mirrors",
    )
    return [(1, shape[1], shape[2] + top + bottom, shape[3] + left + right)]


define("reflection_pad2d", "x", _reflection_pad2d, pads="i[4]")


def _pad(inputs, attrs):
    shape = expect_map("pad", "x", inputs[0])
    top, left, bottom, right = attrs["pads"]
    expect(min(attrs["pads"]) >= 0, f"pad: pads are {attrs['pads']}, expected none below 0")
    return [(1, shape[1], shape[2] + top + bottom, shape[3] + left + right)]


define("pad", "x", _pad, engine=False, pads="i[4]")  # with zeros


def _reshape(inputs, attrs):
    old, new = inputs[0].shape, tuple(attrs["shape"])
    expect(math.prod(old) == math.prod(new), f"reshape: {old} into {new}")
    return [new]


define("reshape", "x", _reshape, engine=False, shape="i[]")


def _transpose(inputs, attrs):
    shape, order = inputs[0].shape, attrs["order"]
    expect(sorted(order) == list(range(len(shape))), f"transpose: {shape} in the order {order}")
    return [tuple(shape[axis] for axis in order)]


define("transpose", "x", _transpose, engine=False, order="i[]")
