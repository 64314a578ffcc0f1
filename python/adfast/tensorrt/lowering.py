"""What each op of the engine's table is in standard ONNX operators.

A function for every op, named after it: takes the emitter, the operands (`Tensor` for activations,
arrays for constants, None where absent) and the attributes; returns the results. Types follow the
CUDA backend: products and feature maps are narrow, as the emitter says; norms, softmax, token
statistics, differences, maps and scores are f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from adfast.tensorrt.emitter import Emitter, Tensor

#: Products of fewer rows wait for their weights and stay exact: the token groups of GTrans.
MANY_ROWS = 64

lowerings: dict[str, Callable[..., list[Tensor]]] = {}


def _op(function: Callable[..., Any]) -> Callable[..., Any]:
    def lowered(*args: Any, **attrs: Any) -> list[Tensor]:
        made = function(*args, **attrs)
        return list(made) if isinstance(made, tuple) else [made]

    lowerings[function.__name__.strip("_")] = lowered
    return function


def _tensor(e: Emitter, label: str, value: Tensor | np.ndarray, element: str) -> Tensor:
    """Return an operand, computed or constant, in a type."""
    if isinstance(value, Tensor):
        return e.cast(value, element)
    return e.constant(label, value, element)


def _activated(e: Emitter, value: Tensor, kind: str) -> Tensor:
    if kind == "none":
        return value
    if kind == "silu":
        return e.binary("Mul", value, e.op("Sigmoid", [value], value.shape))
    name = {"relu": "Relu", "sigmoid": "Sigmoid", "gelu": "Gelu", "tanh": "Tanh"}[kind]
    return e.op(name, [value], value.shape)


# Convolutions and products


def _quantised(e: Emitter, x: Tensor, scale: float, zero: int) -> Tensor:
    """Take an operand through int8, symmetric as TensorRT wants it: room for both ends."""
    reach = max(zero, 255 - zero) * scale
    levels = [
        e.constant("x_scale", np.float32(reach / 127), x.type),
        e.constant("x_zero", np.int8(0), "i8"),
    ]
    narrow = e.op("QuantizeLinear", [x, *levels], x.shape, "i8")
    return e.op("DequantizeLinear", [narrow, *levels], x.shape, x.type)


def _quantised_weight(e: Emitter, weight: np.ndarray, axis: int) -> Tensor:
    """Hold a constant as int8, a scale for each place on `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.abs(weight).max(axis=others, keepdims=True).astype(np.float32) / 127
    scale = np.maximum(scale, np.finfo(np.float16).smallest_normal)
    levels = np.clip(np.rint(weight / scale), -127, 127)
    return e.op(
        "DequantizeLinear",
        [
            e.constant("weight", levels, "i8"),
            e.constant("weight_scale", scale.reshape(-1), e.narrow),
            e.constant("weight_zero", np.zeros(weight.shape[axis], np.int8), "i8"),
        ],
        weight.shape,
        e.narrow,
        axis=axis,
    )


@_op
def _conv2d(
    e, x, weight, bias, residual, *, strides, pads, dilations, groups, activation, **levels
):
    x = e.cast(x, e.narrow)
    if levels["input_scale"]:
        x = _quantised(e, x, levels["input_scale"], levels["input_zero"])
        kernel = _quantised_weight(e, weight, 0)
    else:
        kernel = e.constant("weight", weight, e.narrow)
    out = [
        (side + pads[i] + pads[i + 2] - dilations[i] * (weight.shape[2 + i] - 1) - 1) // strides[i]
        + 1
        for i, side in enumerate(x.shape[2:])
    ]
    y = e.op(
        "Conv",
        [x, kernel, None if bias is None else e.constant("bias", bias, e.narrow)],
        (1, weight.shape[0], *out),
        kernel_shape=list(weight.shape[2:]),
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=groups,
    )
    if residual is not None:
        y = e.binary("Add", y, e.cast(residual, e.narrow))
    return _activated(e, y, activation)


def _pool_shape(x: Tensor, kernel, strides, pads) -> tuple[int, ...]:
    sides = [
        (side + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1
        for i, side in enumerate(x.shape[2:])
    ]
    return (*x.shape[:2], *sides)


@_op
def _max_pool2d(e, x, *, kernel, strides, pads):
    shape = _pool_shape(x, kernel, strides, pads)
    return e.op("MaxPool", [x], shape, kernel_shape=kernel, strides=strides, pads=pads)


@_op
def _avg_pool2d(e, x, *, kernel, strides, pads, count_include_pad):
    return e.op(
        "AveragePool",
        [x],
        _pool_shape(x, kernel, strides, pads),
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        count_include_pad=count_include_pad,
    )


@_op
def _linear(e, x, weight, bias, residual, *, activation, input_scale, input_zero):
    narrow = e.narrow if math.prod(x.shape[:-1]) >= MANY_ROWS else "f32"
    x, shape = e.cast(x, narrow), (*x.shape[:-1], weight.shape[0])
    transposed = np.ascontiguousarray(weight.T)
    if input_scale and narrow == e.narrow:
        x = _quantised(e, x, input_scale, input_zero)
        matrix = _quantised_weight(e, transposed, 1)
    else:
        matrix = e.constant("weight", transposed, narrow)
    y = e.op("MatMul", [x, matrix], shape)
    if bias is not None:
        y = e.binary("Add", y, e.constant("bias", bias, narrow))
    if residual is not None:
        y = e.binary("Add", e.cast(y, residual.type), residual)
    return _activated(e, y, activation)


# Attention


@_op
def _attention(e, q, k, v, *, heads, scale):
    windows, queries = q.shape[:2]

    def split(label: str, x, order) -> Tensor:
        x = _tensor(e, label, x, e.narrow)
        apart = e.reshape(x, (*x.shape[:2], heads, x.shape[2] // heads))
        return e.transpose(apart, order)

    logits = e.matmul(split("q", q, (0, 2, 1, 3)), split("k", k, (0, 2, 3, 1)))
    weights = e.softmax(e.scaled(e.cast(logits, "f32"), scale), -1)
    read = e.matmul(e.cast(weights, e.narrow), split("v", v, (0, 2, 1, 3)))
    return e.reshape(e.transpose(read, (0, 2, 1, 3)), (windows, queries, v.shape[2]))


@_op
def _window_gather(e, x, index):
    x = _tensor(e, "x", x, x.type if isinstance(x, Tensor) else "f32")
    rows = e.reshape(x, x.shape[1:])
    return e.op("Gather", [rows, e.integers("index", index)], (*index.shape, x.shape[2]), axis=0)


def _pixels(e: Emitter, x: Tensor) -> Tensor:
    """[1,C,H,W] as [1,C,H*W]."""
    return e.reshape(x, (1, x.shape[1], math.prod(x.shape[2:])))


@_op
def _token_attention(e, x, weight, bias, *, scale):
    pixels = _pixels(e, e.cast(x, "f32"))
    logits = e.matmul(e.constant("weight", weight[None], "f32"), pixels)
    if bias is not None:
        logits = e.binary("Add", logits, e.constant("bias", bias[:, None], "f32"))
    return e.matmul(e.softmax(e.scaled(logits, scale), -1), e.transpose(pixels, (0, 2, 1)))


def _read_tokens(e: Emitter, x, residual, key, key_bias, value, scale) -> Tensor:
    """Residual + softmax(scale * (key x + key_bias)) value, for every pixel; f32."""
    logits = e.cast(e.matmul(e.cast(key, e.narrow), _pixels(e, e.cast(x, e.narrow))), "f32")
    if key_bias is not None:
        logits = e.binary("Add", logits, e.cast(key_bias, "f32"))
    weights = e.cast(e.softmax(e.scaled(logits, scale), 1), e.narrow)
    read = e.matmul(e.transpose(e.cast(value, e.narrow), (0, 2, 1)), weights)
    return e.binary("Add", e.cast(residual, "f32"), e.cast(e.reshape(read, residual.shape), "f32"))


@_op
def _projector_attention(e, x, residual, key, key_bias, value, *, scale):
    return e.cast(_read_tokens(e, x, residual, key, key_bias, value, scale), e.narrow)


@_op
def _halo_attention(e, q, k, v, rows, columns, *, block, halo, heads, scale, legacy_mask):
    numbers = {"block": block, "halo": halo, "heads": heads, "legacy_mask": legacy_mask}
    if e.plugins:
        # Channels last, as the kernels take them.
        maps = [e.transpose(e.cast(x, e.narrow), (0, 2, 3, 1)) for x in (q, k, v)]
        tables = [e.constant("rows", rows, "f32"), e.constant("columns", columns, "f32")]
        shape = (*q.shape[:1], *q.shape[2:], v.shape[1])
        made = e.plugin("AdfastHaloAttention", [*maps, *tables], shape, scale=scale, **numbers)
        return e.transpose(made, (0, 3, 1, 2))
    height, width = q.shape[2:]
    side = block + 2 * halo
    down, across = height // block, width // block
    blocks = down * across

    def near(x: Tensor, transposed: bool) -> Tensor:
        """Gather what each block sees: [blocks,heads,side*side,d], or the last two transposed."""
        depth = x.shape[1] // heads
        pads = e.integers("pads", [0, 0, halo, halo, 0, 0, halo, halo])
        x = e.op("Pad", [x, pads], (*x.shape[:2], height + 2 * halo, width + 2 * halo))
        for axis, count in ((2, down), (3, across)):
            places = (block * np.arange(count)[:, None] + np.arange(side)).reshape(-1)
            shape = (*x.shape[:axis], places.size, *x.shape[axis + 1 :])
            x = e.op("Gather", [x, e.integers("places", places)], shape, axis=axis)
        x = e.reshape(x, (heads, depth, down, side, across, side))
        if transposed:
            x = e.transpose(x, (2, 4, 0, 1, 3, 5))
            return e.reshape(x, (blocks, heads, depth, side * side))
        x = e.transpose(x, (2, 4, 0, 3, 5, 1))
        return e.reshape(x, (blocks, heads, side * side, depth))

    q, k, v = (e.cast(x, e.narrow) for x in (q, k, v))
    depth = q.shape[1] // heads
    apart = e.reshape(q, (heads, depth, down, block, across, block))
    query = e.reshape(e.transpose(apart, (2, 4, 0, 3, 5, 1)), (blocks, heads, block * block, depth))
    logits = e.cast(e.matmul(query, near(k, transposed=True)), "f32")
    logits = e.reshape(logits, (blocks * heads, block, block, side, side))
    # Which row of a table belongs to the distance from a query to a key, along one axis.
    distance = np.arange(side) - np.arange(block)[:, None] + side - 1
    tall = e.reshape(query, (blocks * heads, block, block, depth))
    by_row = e.matmul(tall, e.constant("rows", rows[distance].transpose(0, 2, 1), e.narrow))
    wide = e.matmul(
        e.transpose(tall, (0, 2, 1, 3)),
        e.constant("columns", columns[distance].transpose(0, 2, 1), e.narrow),
    )
    by_column = e.transpose(wide, (0, 2, 1, 3))
    spread = (blocks * heads, block, block)
    logits = e.binary("Add", logits, e.cast(e.reshape(by_row, (*spread, side, 1)), "f32"))
    logits = e.binary("Add", logits, e.cast(e.reshape(by_column, (*spread, 1, side)), "f32"))
    logits = e.reshape(e.scaled(logits, scale), (blocks, heads, block * block, side * side))
    inside = np.pad(np.ones((height, width), bool), halo)
    windows = np.lib.stride_tricks.sliding_window_view(inside, (side, side))[::block, ::block]
    hidden = windows if legacy_mask else ~windows
    if hidden.any():
        # The largest negative number: an infinity has no place in what may be fused.
        lowest = e.constant("lowest", np.finfo(np.float32).min, "f32")
        mask = e.constant("mask", hidden.reshape(blocks, 1, 1, side * side), "bool")
        logits = e.op("Where", [mask, lowest, logits], logits.shape, "f32")
    weights = e.cast(e.softmax(logits, -1), e.narrow)
    read = e.matmul(weights, near(v, transposed=False))
    made = e.reshape(read, (down, across, heads, block, block, v.shape[1] // heads))
    return e.reshape(e.transpose(made, (2, 5, 0, 3, 1, 4)), v.shape)


# Scores


def _distances(e: Emitter, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`score_map` of two maps of f32."""
    difference = e.binary("Sub", a, b)
    squares = e.reduce("ReduceSum", e.binary("Mul", difference, difference), [1], 1)
    squares = e.scaled(squares, 1 / math.prod(a.shape[2:]))
    total = e.reduce("ReduceSum", squares, [0, 1, 2, 3], 0)

    least, one = (e.constant("number", np.float32(number), "f32") for number in (1e-12, 1))

    def length(x: Tensor) -> Tensor:
        square = e.reduce("ReduceSum", e.binary("Mul", x, x), [0, 1, 2, 3], 0)
        return e.op("Sqrt", [square], ())

    def unit(x: Tensor, along: Tensor) -> Tensor:
        return e.binary("Div", x, e.binary("Max", along, least))

    # 1 - a.b / |a||b| as half the squared distance of the unit vectors: no digits cancel. 1 where
    # there is no angle.
    along_a, along_b = length(a), length(b)
    apart = e.binary("Sub", unit(a, along_a), unit(b, along_b))
    cos = e.scaled(e.reduce("ReduceSum", e.binary("Mul", apart, apart), [0, 1, 2, 3], 0), 0.5)
    some = e.binary("Greater", e.binary("Mul", along_a, along_b), least, "bool")
    cos = e.op("Where", [some, cos, one], (), "f32")
    return (
        e.scaled(squares, 0.5),
        e.reshape(total, (1,)),
        e.reshape(cos, (1,)),
    )


@_op
def _score_map(e, a, b):
    return _distances(e, e.cast(a, "f32"), e.cast(b, "f32"))


@_op
def _projector_score_map(e, x, residual, key, key_bias, value, *, scale):
    made = _read_tokens(e, x, residual, key, key_bias, value, scale)
    return _distances(e, e.cast(x, "f32"), made)


@_op
def _fuse_maps(e, *operands, mode, height, width):
    m = {}
    zero, one = (e.constant("number", np.float32(number), "f32") for number in (0, 1))
    for level in range(3):
        distance, mse, cos = (e.cast(x, "f32") for x in operands[3 * level : 3 * level + 3])
        weighted = e.scaled(cos, float(operands[9][level]))
        total = e.binary("Add", mse, weighted)
        some = e.binary("Greater", total, zero, "bool")
        divisor = e.op("Where", [some, total, one], (1,), "f32")
        alpha = e.binary("Div", e.binary("Mul", weighted, mse), divisor)
        alpha = e.op("Where", [some, alpha, zero], (1,), "f32")
        m[level + 1] = e.binary("Mul", _resized(e, distance, height, width, 0), alpha)

    def product(*levels: int) -> Tensor:
        result = m[levels[0]]
        for level in levels[1:]:
            result = e.binary("Mul", result, m[level])
        return result

    return {
        1: lambda: m[3],
        2: lambda: product(1, 3),
        3: lambda: product(2, 3),
        4: lambda: e.binary("Add", e.binary("Add", m[1], m[2]), m[3]),
        5: lambda: product(1, 2, 3),
        6: lambda: e.binary("Add", product(1, 3), product(2, 3)),
    }[mode]()


def _blur_matrix(size: int, kernel: np.ndarray) -> np.ndarray:
    """[size,size] that blurs an axis, its ends mirrored."""
    half = kernel.size // 2
    padded = np.pad(np.eye(size), ((half, half), (0, 0)), mode="reflect")
    return sum(weight * padded[i : i + size] for i, weight in enumerate(kernel.astype(np.float64)))


@_op
def _gaussian_blur(e, x, kernel):
    # Two products with constant matrices: no padding, and no convolution of a single channel.
    height, width = x.shape[2:]
    down = e.constant("rows", _blur_matrix(height, kernel), "f32")
    across = e.constant("columns", _blur_matrix(width, kernel).T, "f32")
    return e.matmul(e.matmul(down, e.cast(x, "f32")), across)


@_op
def _gms_map(e, a, b, *, c):
    prewitt = np.array([[-1, 0, 1]] * 3, np.float32) / 3

    def magnitude(x: Tensor) -> Tensor:
        x = e.cast(x, "f32")
        channels, height, width = x.shape[1:]
        pads = e.integers("pads", [0, 0, 1, 1, 0, 0, 1, 1])
        shape = (1, channels, height + 2, width + 2)
        padded = e.op("Pad", [x, pads], shape, mode="edge")
        sums = []
        for kernel in (prewitt, prewitt.T):
            weight = e.constant("prewitt", np.tile(kernel, (channels, 1, 1, 1)), "f32")
            gradient = e.op("Conv", [padded, weight], x.shape, kernel_shape=[3, 3], group=channels)
            sums.append(e.binary("Mul", gradient, gradient))
        return e.op("Sqrt", [e.binary("Add", *sums)], x.shape)

    ga, gb = magnitude(a), magnitude(b)
    small = e.constant("c", np.float32(c), "f32")
    squares = e.binary("Add", e.binary("Mul", ga, ga), e.binary("Mul", gb, gb))
    alike = e.binary("Add", e.scaled(e.binary("Mul", ga, gb), 2), small)
    ratio = e.binary("Div", alike, e.binary("Add", squares, small))
    one = e.constant("one", np.float32(1), "f32")
    return e.binary("Sub", one, e.reduce("ReduceMean", ratio, [1], 1))


@_op
def _calibrate_map(e, x, mean, *, mode):
    difference = e.binary("Sub", e.cast(x, "f32"), e.constant("mean", mean, "f32"))
    if mode == "square":
        return e.binary("Mul", difference, difference)
    return e.op("Abs", [difference], difference.shape)


# Norms and elementwise


@_op
def _layer_norm(e, x, gamma, beta, residual, *, eps):
    parameters = e.constant("gamma", gamma, "f32"), e.constant("beta", beta, "f32")
    x = e.cast(x, "f32")
    y = e.op("LayerNormalization", [x, *parameters], x.shape, axis=-1, epsilon=eps)
    return y if residual is None else e.binary("Add", y, e.cast(residual, "f32"))


@_op
def _softmax(e, x):
    return e.softmax(x, -1)


def _unary(kind: str) -> Callable[..., list[Tensor]]:
    return lambda e, x: [e.op(kind, [x], x.shape)]


for _name, _kind in (("sqrt", "Sqrt"), ("exp", "Exp"), ("abs", "Abs"), ("neg", "Neg")):
    lowerings[_name] = _unary(_kind)


def _activation(kind: str) -> Callable[..., list[Tensor]]:
    return lambda e, x: [_activated(e, x, kind)]


for _name in ("relu", "sigmoid", "silu", "gelu", "tanh"):
    lowerings[_name] = _activation(_name)


@_op
def _square(e, x):
    x = e.cast(x, "f32")
    return e.binary("Mul", x, x)


def _binary(op: str, kind: str) -> Callable[..., list[Tensor]]:
    def lowered(e: Emitter, a: Tensor, b: Tensor | np.ndarray) -> list[Tensor]:
        element = _element(e, op, a, b)
        return [e.binary(kind, e.cast(a, element), _tensor(e, "b", b, element))]

    return lowered


def _element(e: Emitter, op: str, a: Tensor, b: Tensor | np.ndarray) -> str:
    """Return the type of an elementwise result, as runtime/op_rules.cpp has it."""
    if op == "mul":
        # A gated feature map is one; a product of two maps is part of a score.
        return a.type if isinstance(b, Tensor) and b.shape != a.shape else "f32"
    if op in ("add", "max", "min") and len(a.shape) == 4 and a.type == e.narrow:
        return e.narrow if not isinstance(b, Tensor) or b.type == e.narrow else "f32"
    return "f32"  # a difference cancels


for _name in ("add", "sub", "mul", "div", "max", "min"):
    lowerings[_name] = _binary(_name, _name.capitalize())


# Moving elements


@_op
def _tokens(e, x):
    return e.transpose(_pixels(e, x), (0, 2, 1))


@_op
def _feature_map(e, x, *, height, width):
    return e.reshape(e.transpose(x, (0, 2, 1)), (1, x.shape[2], height, width))


@_op
def _view(e, x, *, shape):
    return e.reshape(x, shape)


@_op
def _depth_to_space(e, x, *, block):
    _, channels, height, width = x.shape
    shape = (1, channels // block**2, height * block, width * block)
    return e.op("DepthToSpace", [x], shape, blocksize=block, mode="DCR")


@_op
def _concat(e, *values, axis):
    computed = [value for value in values if isinstance(value, Tensor)]
    same = all(value.type == e.narrow for value in computed)
    element = e.narrow if same and computed else "f32"
    parts = [_tensor(e, "part", value, element) for value in values]
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return e.op("Concat", parts, shape, axis=axis)


@_op
def _slice(e, x, *, axis, start, end):
    shape = (*x.shape[:axis], end - start, *x.shape[axis + 1 :])
    bounds = [e.integers(name, [at]) for name, at in (("from", start), ("to", end), ("axis", axis))]
    return e.op("Slice", [x, *bounds], shape)


def _reduction(kind: str) -> Callable[..., list[Tensor]]:
    return lambda e, x, *, axes, keepdims: [e.reduce(kind, x, axes, keepdims)]


for _name, _kind in (("mean", "ReduceMean"), ("sum", "ReduceSum"), ("max", "ReduceMax")):
    lowerings[f"reduce_{_name}"] = _reduction(_kind)


def _resized(e: Emitter, x: Tensor, height: int, width: int, align_corners: int) -> Tensor:
    shape = (*x.shape[:2], height, width)
    return e.op(
        "Resize",
        [x, None, None, e.integers("sizes", shape)],
        shape,
        mode="linear",
        coordinate_transformation_mode="align_corners" if align_corners else "half_pixel",
    )


@_op
def _resize_bilinear(e, x, *, height, width, align_corners):
    return _resized(e, e.cast(x, "f32"), height, width, align_corners)


@_op
def _resize_nearest(e, x, *, height, width):
    shape = (*x.shape[:2], height, width)
    return e.op(
        "Resize",
        [x, None, None, e.integers("sizes", shape)],
        shape,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@_op
def _reflection_pad2d(e, x, *, pads):
    top, left, bottom, right = pads
    shape = (*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right)
    amounts = e.integers("pads", [0, 0, top, left, 0, 0, bottom, right])
    return e.op("Pad", [x, amounts], shape, mode="reflect")
