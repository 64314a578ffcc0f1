"""The op table: what each op takes, its attributes, its limits, and the shapes it gives.

The table is the meaning of a plan's graph; the engine implements the same table. Shapes are
logical, as in ONNX, with a batch of 1: feature maps are [1,C,H,W], tokens [1,T,D]. Ops with
`engine=False` live inside the compiler only: the importer emits them and a pass replaces each of
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adfast.errors import CompileError

if TYPE_CHECKING:
    from adfast.compiler.graph import Value

Shape = tuple[int, ...]
REQUIRED = object()
ACTIVATIONS = ("none", "relu", "sigmoid", "silu", "gelu", "tanh")
SCALES = (1e-18, 1e18)  # of quantised values: reciprocals and products stay floats
ARITHMETIC = ("add", "sub", "mul", "div", "max", "min")


@dataclass(frozen=True)
class Input:
    """One operand; `constant` ones are known when the plan is built, an `index` is one of int32."""

    name: str
    constant: bool = False
    optional: bool = False
    index: bool = False


@dataclass(frozen=True)
class Attr:
    """`type` is i, f or s, or i[n], f[n], i[]: a list of n, or of any length."""

    type: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class Op:
    """An entry of the table; `infer` checks the operands and returns the shapes of the outputs."""

    name: str
    inputs: tuple[Input, ...]
    attrs: Mapping[str, Attr]
    infer: Callable[[list[Value | None], Mapping[str, Any]], list[Shape]]
    variadic: bool = False
    engine: bool = True
    mixed: bool = False  # any operand may be a constant or an activation


table: dict[str, Op] = {}


def complete_attrs(op: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all attributes of `op`: `given` converted to the table's types, defaults filled in.

    Raises:
        CompileError: unknown op or attribute, a missing one, or a wrong type or length.
    """
    spec = _op(op).attrs
    unknown = sorted(set(given) - set(spec))
    if unknown:
        raise CompileError(f"{op} has no attribute {unknown[0]!r}; it has {sorted(spec) or 'none'}")
    return {
        name: _convert(op, name, attr, given.get(name, attr.default)) for name, attr in spec.items()
    }


def non_default_attrs(op: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes worth printing."""
    spec = _op(op).attrs
    return {name: value for name, value in attrs.items() if spec[name].default != value}


def input_count(op: str) -> int:
    """Count the operands of `op`, absent ones too; 0 for ops that take any number."""
    return 0 if _op(op).variadic else len(_op(op).inputs)


def infer(op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> list[Shape]:
    """Check operands and attributes against the table; return the outputs' shapes.

    Raises:
        CompileError: naming the op, what was expected and what came.
    """
    entry = _op(op)
    inputs = list(inputs)
    if complete_attrs(op, attrs) != dict(attrs):
        raise CompileError(f"{op}: attributes {dict(attrs)} are incomplete or of the wrong type")
    if entry.variadic:
        if not inputs or any(value is None for value in inputs):
            raise CompileError(f"{op} takes one or more inputs, none of them absent")
        return entry.infer(inputs, attrs)
    if len(inputs) != len(entry.inputs):
        names = [each.name for each in entry.inputs]
        raise CompileError(f"{op} takes {len(names)} inputs {names}, got {len(inputs)}")
    for wanted, value in zip(entry.inputs, inputs, strict=True):
        if value is None and not wanted.optional:
            raise CompileError(f"{op} needs its input {wanted.name!r}")
        if value is not None and wanted.constant and not value.is_constant:
            raise CompileError(
                f"{op} needs a constant {wanted.name!r}, got the activation {value!r}"
            )
        if value is not None and value.is_constant:
            integers = value.array.dtype == np.int32
            if integers != wanted.index:
                raise CompileError(
                    f"{op}: {wanted.name} holds {value.array.dtype}, "
                    f"expected {'int32' if wanted.index else 'float32'}"
                )
    return entry.infer(inputs, attrs)


def expect_activations(op: str, inputs: Sequence[Value | None]) -> None:
    """Refuse a constant where the engine takes activations only.

    Raises:
        CompileError: naming the operand.
    """
    entry = _op(op)
    names = [each.name for each in entry.inputs]
    for index, value in enumerate(inputs):
        name = "input" if entry.variadic else names[index]
        if value is None or not value.is_constant or entry.mixed:
            continue
        if entry.variadic or not (entry.inputs[index].constant or op in ARITHMETIC):
            raise CompileError(f"{op}: {name} is the constant {value!r}, expected an activation")


def _op(name: str) -> Op:
    if name not in table:
        raise CompileError(f"unknown op {name!r}")
    return table[name]


def _convert(op: str, name: str, attr: Attr, value: Any) -> Any:
    if value is REQUIRED:
        raise CompileError(f"{op} needs the attribute {name!r}")
    kind, _, length = attr.type.partition("[")
    to = {"i": int, "f": float, "s": str}[kind]
    try:
        if not length:
            return to(value)
        items = [to(item) for item in value]
    except (TypeError, ValueError):
        raise CompileError(f"{op}: {name} is of type {attr.type}, got {value!r}") from None
    if length != "]" and len(items) != int(length[:-1]):
        raise CompileError(f"{op}: {name} has {length[:-1]} items, got {value!r}")
    return items


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise CompileError(message)


def _expect_map(op: str, name: str, value: Value) -> Shape:
    shape = value.shape
    _expect(
        len(shape) == 4 and shape[0] == 1 and min(shape) > 0,
        f"{op}: {name} has shape {shape}, expected [1,C,H,W]",
    )
    return shape


def _expect_shape(op: str, name: str, value: Value | None, shape: Shape) -> None:
    if value is not None:
        _expect(value.shape == shape, f"{op}: {name} has shape {value.shape}, expected {shape}")


def _expect_activation(op: str, attrs: Mapping[str, Any]) -> None:
    activation = attrs["activation"]
    _expect(
        activation in ACTIVATIONS,
        f"{op}: activation is {activation!r}, expected one of {ACTIVATIONS}",
    )


def _expect_levels(op: str, attrs: Mapping[str, Any]) -> None:
    scale, zero = attrs["input_scale"], attrs["input_zero"]
    _expect(
        (scale == 0 or SCALES[0] <= scale <= SCALES[1]) and 0 <= zero <= 255,
        f"{op}: quantised with scale {scale} and zero {zero}, expected {SCALES[0]:g} to "
        f"{SCALES[1]:g} and 0 to 255",
    )


def _window(op: str, x: Shape, kernel: list[int], attrs: Mapping[str, Any]) -> tuple[int, int]:
    """Output height and width of a sliding window."""
    top, left, bottom, right = attrs["pads"]
    strides, dilations = attrs["strides"], attrs.get("dilations", [1, 1])
    _expect(
        min(kernel + strides + dilations) >= 1 and min(attrs["pads"]) >= 0,
        f"{op}: kernel, strides and dilations must be positive and pads not negative, got {attrs}",
    )
    out = []
    for size, pad, k, stride, dilation in zip(
        x[2:], (top + bottom, left + right), kernel, strides, dilations, strict=True
    ):
        reach = size + pad - dilation * (k - 1) - 1
        _expect(reach >= 0, f"{op}: the kernel {kernel} is larger than the padded input {x}")
        out.append(reach // stride + 1)
    return out[0], out[1]


def _frame(inputs, attrs):
    (rh, rw), (ch, cw) = attrs["resize"], attrs["crop"]
    _expect(
        1 <= ch <= rh and 1 <= cw <= rw,
        f"frame: crop {ch}x{cw} does not fit into the resized image {rh}x{rw}",
    )
    return [(1, 3, ch, cw)]


def _conv2d(inputs, attrs):
    x, weight, bias, residual = inputs
    shape = _expect_map("conv2d", "x", x)
    _expect_activation("conv2d", attrs)
    _expect_levels("conv2d", attrs)
    groups = attrs["groups"]
    _expect(
        len(weight.shape) == 4, f"conv2d: weight has shape {weight.shape}, expected [O,I/g,kh,kw]"
    )
    out, per_group = weight.shape[:2]
    _expect(
        groups >= 1 and per_group * groups == shape[1] and out % groups == 0,
        f"conv2d: weight {weight.shape} with {groups} groups does not fit x {shape}",
    )
    result = (1, out, *_window("conv2d", shape, list(weight.shape[2:]), attrs))
    _expect_shape("conv2d", "bias", bias, (out,))
    _expect_shape("conv2d", "residual", residual, result)
    return [result]


def _pool(op):
    def infer(inputs, attrs):
        shape = _expect_map(op, "x", inputs[0])
        (top, left, bottom, right), (kh, kw) = attrs["pads"], attrs["kernel"]
        _expect(
            max(top, bottom) < kh and max(left, right) < kw,
            f"{op}: pads {attrs['pads']} must be smaller than the kernel {attrs['kernel']}",
        )
        return [(1, shape[1], *_window(op, shape, attrs["kernel"], attrs))]

    return infer


def _linear(inputs, attrs):
    x, weight, bias, residual = inputs
    _expect_activation("linear", attrs)
    _expect_levels("linear", attrs)
    _expect(
        len(x.shape) in (1, 2, 3) and len(weight.shape) == 2 and weight.shape[1] == x.shape[-1],
        f"linear: x {x.shape} and weight {weight.shape}; expected [..,K] of rank 1 to 3 and [N,K]",
    )
    result = (*x.shape[:-1], weight.shape[0])
    _expect_shape("linear", "bias", bias, weight.shape[:1])
    _expect_shape("linear", "residual", residual, result)
    return [result]


def _attention(inputs, attrs):
    q, k, v = (value.shape for value in inputs)
    heads = attrs["heads"]
    _expect(
        len(q) == len(k) == len(v) == 3
        and q[0] == k[0] == v[0]
        and q[2] == k[2]
        and k[1] == v[1]
        and heads >= 1
        and q[2] % heads == 0
        and v[2] % heads == 0,
        f"attention: q {q}, k {k}, v {v} with {heads} heads; "
        "expected [W,tq,d], [W,tk,d], [W,tk,dv], widths divisible by heads",
    )
    return [(q[0], q[1], v[2])]


def _window_gather(inputs, attrs):
    x, index = inputs
    _expect(
        len(x.shape) == 3 and x.shape[0] == 1 and len(index.shape) == 2 and min(index.shape) > 0,
        f"window_gather: x {x.shape}, index {index.shape}; expected [1,M,D] and [W,t]",
    )
    low, high = int(index.array.min()), int(index.array.max())
    _expect(
        0 <= low and high < x.shape[1],
        f"window_gather: index holds {low} to {high}, expected 0 to {x.shape[1] - 1}",
    )
    return [(*index.shape, x.shape[2])]


def _token_attention(inputs, attrs):
    x, weight, bias = inputs
    channels = _expect_map("token_attention", "x", x)[1]
    _expect(
        len(weight.shape) == 2 and weight.shape[1] == channels,
        f"token_attention: weight has shape {weight.shape}, expected [g,{channels}]",
    )
    _expect_shape("token_attention", "bias", bias, weight.shape[:1])
    return [(1, weight.shape[0], channels)]


def _projector(op, inputs):
    x, residual, key, key_bias, value = inputs
    shape = _expect_map(op, "x", x)
    _expect_shape(op, "residual", residual, shape)
    tokens = key.shape[1] if len(key.shape) == 3 else 0
    _expect_shape(op, "key", key, (1, tokens, shape[1]))
    _expect_shape(op, "value", value, (1, tokens, shape[1]))
    _expect_shape(op, "key_bias", key_bias, (1, tokens, 1))
    return shape


def _scores(shape: Shape) -> list[Shape]:
    return [(1, 1, *shape[2:]), (1,), (1,)]


def _score_map(inputs, attrs):
    a, b = inputs
    shape = _expect_map("score_map", "a", a)
    _expect_shape("score_map", "b", b, shape)
    return _scores(shape)


def _query_projector(inputs, attrs):
    x, residual, weight, bias, key, value = inputs
    op = "query_projector_attention"
    shape = _expect_map(op, "query_features", x)
    _expect_shape(op, "features", residual, shape)
    width = weight.shape[0]
    tokens = key.shape[1] if len(key.shape) == 3 else 0
    _expect_shape(op, "query_weight", weight, (width, shape[1]))
    _expect_shape(op, "query_bias", bias, (width,))
    _expect_shape(op, "key", key, (1, tokens, width))
    _expect_shape(op, "value", value, (1, tokens, shape[1]))
    return [shape]


def _fuse_maps(inputs, attrs):
    for level in range(3):
        score_map, mse, cos = inputs[3 * level : 3 * level + 3]
        shape = _expect_map("fuse_maps", f"map{level + 1}", score_map)
        _expect_shape("fuse_maps", f"map{level + 1}", score_map, (1, 1, *shape[2:]))
        _expect_shape("fuse_maps", f"mse{level + 1}", mse, (1,))
        _expect_shape("fuse_maps", f"cos{level + 1}", cos, (1,))
    _expect_shape("fuse_maps", "alpha_scale", inputs[9], (3,))
    _expect(1 <= attrs["mode"] <= 6, f"fuse_maps: mode is {attrs['mode']}, expected 1 to 6")
    _expect(
        attrs["height"] >= 1 and attrs["width"] >= 1,
        f"fuse_maps: the map would have {attrs['height']}x{attrs['width']} pixels",
    )
    return [(1, 1, attrs["height"], attrs["width"])]


def _gaussian_blur(inputs, attrs):
    x, kernel = inputs
    shape = _expect_map("gaussian_blur", "x", x)
    _expect_shape("gaussian_blur", "x", x, (1, 1, *shape[2:]))
    size = math.prod(kernel.shape)
    _expect(
        len(kernel.shape) == 1 and size % 2 == 1,
        f"gaussian_blur: kernel has shape {kernel.shape}, expected an odd number of weights",
    )
    _expect(
        size // 2 < min(shape[2:]),
        f"gaussian_blur: a kernel of {size} reflects past the edge of a {shape[2]}x{shape[3]} map; "
        "use a smaller sigma",
    )
    return [shape]


def _gms_map(inputs, attrs):
    a, b = inputs
    shape = _expect_map("gms_map", "a", a)
    _expect_shape("gms_map", "b", b, shape)
    _expect(attrs["c"] > 0, f"gms_map: c is {attrs['c']}, expected a positive number")
    return [(1, 1, *shape[2:])]


def _calibrate_map(inputs, attrs):
    x, mean = inputs
    shape = _expect_map("calibrate_map", "x", x)
    _expect_shape("calibrate_map", "x", x, (1, 1, *shape[2:]))
    _expect_shape("calibrate_map", "mean", mean, shape)
    _expect(
        attrs["mode"] in ("square", "absolute"),
        f"calibrate_map: mode is {attrs['mode']!r}, expected 'square' or 'absolute'",
    )
    return [shape]


def _depth_to_space(inputs, attrs):
    shape, block = _expect_map("depth_to_space", "x", inputs[0]), attrs["block"]
    _expect(
        block >= 1 and shape[1] % (block * block) == 0,
        f"depth_to_space: {shape[1]} channels do not divide into blocks of {block} x {block}",
    )
    return [(1, shape[1] // (block * block), shape[2] * block, shape[3] * block)]


def _layer_norm(inputs, attrs):
    x, gamma, beta, residual = inputs
    _expect(len(x.shape) in (1, 2, 3), f"layer_norm: x has shape {x.shape}, expected rank 1 to 3")
    _expect_shape("layer_norm", "gamma", gamma, x.shape[-1:])
    _expect_shape("layer_norm", "beta", beta, x.shape[-1:])
    _expect_shape("layer_norm", "residual", residual, x.shape)
    return [x.shape]


def _softmax(inputs, attrs):
    shape = inputs[0].shape
    _expect(len(shape) in (1, 2, 3), f"softmax: x has shape {shape}, expected rank 1 to 3")
    return [shape]


def _same(inputs, attrs):
    return [inputs[0].shape]


def _elementwise(op):
    def infer(inputs, attrs):
        a, b = inputs
        _expect(
            not a.is_constant, f"{op}: the first input {a!r} is a constant, expected an activation"
        )
        channels = (1, a.shape[1], 1, 1) if len(a.shape) == 4 else a.shape[-1:]
        # The last: the same tokens for every window, as positions are.
        window = (1, *a.shape[1:]) if len(a.shape) == 3 else channels
        spread = b.is_constant and b.shape in ((), (1,), channels, window)
        # The engine stores feature maps channels-last, and their constants not at all.
        whole = a.shape == b.shape and not (b.is_constant and len(a.shape) == 4)
        # Squeeze and excite: a feature map by one activation for each channel.
        gate = op == "mul" and len(a.shape) == 4 and b.shape == channels
        _expect(
            whole or spread or gate,
            f"{op}: {a!r} and {b!r}; expected activations of one shape, or a constant that is a "
            f"scalar or has one number for each channel, {list(channels)}, or for each element of "
            "a window, [1,t,D]",
        )
        return [a.shape]

    return infer


def _concat(inputs, attrs):
    first, axis = inputs[0].shape, attrs["axis"]
    allowed = {3: (0, 1, 2), 4: (1,)}.get(len(first), ())
    _expect(
        axis in allowed,
        f"concat: axis {axis} of {first}; expected any axis of rank 3 or axis 1 of rank 4",
    )
    for value in inputs:
        expected = (*first[:axis], *value.shape[axis : axis + 1], *first[axis + 1 :])
        _expect_shape("concat", "input", value, expected)
        _expect(
            len(first) == 3 or not value.is_constant,
            f"concat: input is the constant {value!r}; expected activations, or tokens",
        )
    total = sum(value.shape[axis] for value in inputs)
    return [(*first[:axis], total, *first[axis + 1 :])]


def _slice(inputs, attrs):
    shape = inputs[0].shape
    axis, start, end = attrs["axis"], attrs["start"], attrs["end"]
    allowed = {3: (1, 2), 4: (1,)}.get(len(shape), ())
    _expect(
        axis in allowed,
        f"slice: axis {axis} of {shape}; expected axis 1 or 2 of rank 3, or 1 of rank 4",
    )
    _expect(
        0 <= start < end <= shape[axis],
        f"slice: {start} to {end} of an axis of {shape[axis]}",
    )
    return [(*shape[:axis], end - start, *shape[axis + 1 :])]


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


def _resize(inputs, attrs):
    shape = _expect_map("resize_bilinear", "x", inputs[0])
    height, width = attrs["height"], attrs["width"]
    _expect(height >= 1 and width >= 1, f"resize_bilinear: the result would be {height}x{width}")
    return [(1, shape[1], height, width)]


def _resize_nearest(inputs, attrs):
    shape = _expect_map("resize_nearest", "x", inputs[0])
    height, width = attrs["height"], attrs["width"]
    _expect(height >= 1 and width >= 1, f"resize_nearest: the result would be {height}x{width}")
    return [(1, shape[1], height, width)]


def _reflection_pad2d(inputs, attrs):
    shape = _expect_map("reflection_pad2d", "x", inputs[0])
    top, left, bottom, right = attrs["pads"]
    _expect(
        min(attrs["pads"]) >= 0 and max(top, bottom) < shape[2] and max(left, right) < shape[3],
        f"reflection_pad2d: pads are {attrs['pads']}, expected none below 0 and each smaller than "
        f"the side of {shape} that it mirrors",
    )
    return [(1, shape[1], shape[2] + top + bottom, shape[3] + left + right)]


def _halo_attention(inputs, attrs):
    op = "halo_attention"
    q, k, v, rows, columns = inputs
    shape = _expect_map(op, "q", q)
    block, halo, heads = attrs["block"], attrs["halo"], attrs["heads"]
    _expect(
        block >= 1 and halo >= 0 and heads >= 1 and attrs["legacy_mask"] in (0, 1),
        f"{op}: block {block}, halo {halo}, heads {heads}, legacy_mask {attrs['legacy_mask']}; "
        "expected block and heads of at least 1, halo of at least 0, legacy_mask 0 or 1",
    )
    _expect(
        shape[2] % block == 0 and shape[3] % block == 0,
        f"{op}: q has shape {shape}, expected a height and width divisible by block = {block}",
    )
    _expect_shape(op, "k", k, shape)
    values = _expect_map(op, "v", v)[1]
    _expect_shape(op, "v", v, (1, values, *shape[2:]))
    _expect(
        shape[1] % heads == 0 and values % heads == 0,
        f"{op}: q {shape} and v {v.shape}; expected channels divisible by heads = {heads}",
    )
    table_shape = (2 * (block + 2 * halo) - 1, shape[1] // heads)
    _expect_shape(op, "rows", rows, table_shape)
    _expect_shape(op, "columns", columns, table_shape)
    return [v.shape]


def _tokens(inputs, attrs):
    _, channels, height, width = _expect_map("tokens", "x", inputs[0])
    return [(1, height * width, channels)]


def _feature_map(inputs, attrs):
    shape, height, width = inputs[0].shape, attrs["height"], attrs["width"]
    _expect(
        len(shape) == 3 and shape[0] == 1 and height >= 1 and shape[1] == height * width,
        f"feature_map: x has shape {shape}, expected [1,{height * width},C] for {height}x{width}",
    )
    return [(1, shape[2], height, width)]


def _view(inputs, attrs):
    old, new = inputs[0].shape, tuple(attrs["shape"])
    _expect(
        math.prod(old) == math.prod(new) and 4 not in (len(old), len(new)),
        f"view: {old} into {new}; expected as many elements, and no feature map",
    )
    return [new]


def _pad(inputs, attrs):
    shape = _expect_map("pad", "x", inputs[0])
    top, left, bottom, right = attrs["pads"]
    _expect(min(attrs["pads"]) >= 0, f"pad: pads are {attrs['pads']}, expected none below 0")
    return [(1, shape[1], shape[2] + top + bottom, shape[3] + left + right)]


def _batch_norm(inputs, attrs):
    shape = inputs[0].shape
    _expect(len(shape) >= 2, f"batch_norm: x has shape {shape}, expected [1,C,..]")
    for name, value in zip(("gamma", "beta", "mean", "variance"), inputs[1:], strict=True):
        _expect_shape("batch_norm", name, value, shape[1:2])
    return [shape]


def _reshape(inputs, attrs):
    old, new = inputs[0].shape, tuple(attrs["shape"])
    _expect(math.prod(old) == math.prod(new), f"reshape: {old} into {new}")
    return [new]


def _transpose(inputs, attrs):
    shape, order = inputs[0].shape, attrs["order"]
    _expect(sorted(order) == list(range(len(shape))), f"transpose: {shape} in the order {order}")
    return [tuple(shape[axis] for axis in order)]


def _define(
    name: str,
    inputs: str,
    infer: Callable,
    *,
    variadic: bool = False,
    engine: bool = True,
    mixed: bool = False,
    **attrs: tuple | str,
) -> None:
    """Enter an op; inputs as in "x weight:const bias:const?", a "?" marks an optional one.

    "index" instead of "const" makes it one of int32.
    """
    parsed = []
    for word in inputs.split():
        bare, _, flags = word.rstrip("?").partition(":")
        constant, index = flags in ("const", "index"), flags == "index"
        parsed.append(Input(bare, constant, optional=word.endswith("?"), index=index))
    types = {
        key: Attr(*((value,) if isinstance(value, str) else value)) for key, value in attrs.items()
    }
    table[name] = Op(name, tuple(parsed), types, infer, variadic, engine, mixed)


# How the first input is stored where the step runs in int8: value = input_scale * (u8 -
# input_zero). A scale of 0: the step never does.
LEVELS = {"input_scale": ("f", 0.0), "input_zero": ("i", 0)}
_WINDOW = {"strides": ("i[2]", [1, 1]), "pads": ("i[4]", [0, 0, 0, 0])}
_SCORED = "map1 mse1 cos1 map2 mse2 cos2 map3 mse3 cos3"

# The image: resized, cropped, and value * scale + bias per channel on values 0..255.
_define(
    "frame", "", _frame, resize="i[2]", crop="i[2]", antialias=("i", 1), scale="f[3]", bias="f[3]"
)
_define(
    "conv2d",
    "x weight:const bias:const? residual?",
    _conv2d,
    **_WINDOW,
    dilations=("i[2]", [1, 1]),
    groups=("i", 1),
    activation=("s", "none"),
    **LEVELS,
)
_define("max_pool2d", "x", _pool("max_pool2d"), kernel="i[2]", **_WINDOW)
_define(
    "avg_pool2d", "x", _pool("avg_pool2d"), kernel="i[2]", **_WINDOW, count_include_pad=("i", 0)
)
_define(
    "linear",
    "x weight:const bias:const? residual?",
    _linear,
    activation=("s", "none"),
    **LEVELS,
)
_define("attention", "q k v", _attention, mixed=True, heads=("i", 1), scale="f")
_define("window_gather", "x index:index", _window_gather, mixed=True)
_define("token_attention", "x weight:const bias:const?", _token_attention, scale="f")
_define(
    "projector_attention",
    "x residual key key_bias? value",
    lambda inputs, attrs: [_projector("projector_attention", inputs)],
    scale="f",
)
_define("score_map", "a b", _score_map)
_define(
    "projector_score_map",
    "x residual key key_bias? value",
    lambda inputs, attrs: _scores(_projector("projector_score_map", inputs)),
    scale="f",
)
_define("fuse_maps", f"{_SCORED} alpha_scale:const", _fuse_maps, mode="i", height="i", width="i")
_define("gaussian_blur", "x kernel:const", _gaussian_blur)
_define("gms_map", "a b", _gms_map, c="f")
_define("calibrate_map", "x mean:const", _calibrate_map, mode="s")
_define("layer_norm", "x gamma:const beta:const residual?", _layer_norm, eps=("f", 1e-5))
_define("softmax", "x", _softmax)
for _name in ("relu", "sigmoid", "silu", "gelu", "tanh", "sqrt", "exp", "abs", "square", "neg"):
    _define(_name, "x", _same)
for _name in ARITHMETIC:
    _define(_name, "a b", _elementwise(_name))
# Between feature maps and tokens nothing moves: both lie in memory pixel by pixel.
_define("tokens", "x", _tokens)
_define("feature_map", "x", _feature_map, height="i", width="i")
_define("view", "x", _view, shape="i[]")
# Channels are row, column, channel of a block: ONNX's mode DCR.
_define("depth_to_space", "x", _depth_to_space, block="i")
_define("concat", "", _concat, variadic=True, mixed=True, axis="i")
_define("slice", "x", _slice, axis="i", start="i", end="i")
for _name in ("reduce_mean", "reduce_sum", "reduce_max"):
    _define(_name, "x", _reduce(_name), axes="i[]", keepdims=("i", 1))
_define("resize_bilinear", "x", _resize, height="i", width="i", align_corners=("i", 0))
_define("resize_nearest", "x", _resize_nearest, height="i", width="i")
_define("reflection_pad2d", "x", _reflection_pad2d, pads="i[4]")
# Every block of queries reads the keys of the block and of a margin of `halo` around it.
_define(
    "halo_attention",
    "q k v rows:const columns:const",
    _halo_attention,
    block="i",
    halo="i",
    heads=("i", 1),
    scale="f",
    legacy_mask=("i", 0),
)

# Inside the compiler only.
_define("identity", "x", _same, engine=False)
_define("erf", "x", _same, engine=False)
_define("reshape", "x", _reshape, engine=False, shape="i[]")
_define("transpose", "x", _transpose, engine=False, order="i[]")
_define("pad", "x", _pad, engine=False, pads="i[4]")  # with zeros
_define(
    "batch_norm",
    "x gamma:const beta:const mean:const variance:const",
    _batch_norm,
    engine=False,
    eps=("f", 1e-5),
)
_define(
    "query_projector_attention",
    "query_features features query_weight:const query_bias:const key value",
    _query_projector,
    engine=False,
    scale="f",
)
