"""Layers of networks: convolutions, products, attention, norms, activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adfast.compiler.ops.spec import ARITHMETIC, Shape, define, expect, expect_map, expect_shape

ACTIVATIONS = ("none", "relu", "sigmoid", "silu", "gelu", "tanh")
SCALES = (1e-18, 1e18)  # of quantised values: reciprocals and products stay floats
# How the first input is stored where the step runs in int8: value = input_scale * (u8 -
# input_zero). A scale of 0: the step never does.
LEVELS = {"input_scale": ("f", 0.0), "input_zero": ("i", 0)}
_WINDOW = {"strides": ("i[2]", [1, 1]), "pads": ("i[4]", [0, 0, 0, 0])}


def _expect_activation(op: str, attrs: Mapping[str, Any]) -> None:
    activation = attrs["activation"]
    expect(
        activation in ACTIVATIONS,
        f"{op}: activation is {activation!r}, expected one of {ACTIVATIONS}",
    )


def _expect_levels(op: str, attrs: Mapping[str, Any]) -> None:
    scale, zero = attrs["input_scale"], attrs["input_zero"]
    expect(
        (scale == 0 or SCALES[0] <= scale <= SCALES[1]) and 0 <= zero <= 255,
        f"{op}: quantised with scale {scale} and zero {zero}, expected {SCALES[0]:g} to "
        f"{SCALES[1]:g} and 0 to 255",
    )


def _window(op: str, x: Shape, kernel: list[int], attrs: Mapping[str, Any]) -> tuple[int, int]:
    """Output height and width of a sliding window."""
    top, left, bottom, right = attrs["pads"]
    strides, dilations = attrs["strides"], attrs.get("dilations", [1, 1])
    expect(
        min(kernel + strides + dilations) >= 1 and min(attrs["pads"]) >= 0,
        f"{op}: kernel, strides and dilations must be positive and pads not negative, got {attrs}",
    )
    out = []
    for size, pad, k, stride, dilation in zip(
        x[2:], (top + bottom, left + right), kernel, strides, dilations, strict=True
    ):
        reach = size + pad - dilation * (k - 1) - 1
        expect(reach >= 0, f"{op}: the kernel {kernel} is larger than the padded input {x}")
        out.append(reach // stride + 1)
    return out[0], out[1]


def _conv2d(inputs, attrs):
    x, weight, bias, residual = inputs
    shape = expect_map("conv2d", "x", x)
    _expect_activation("conv2d", attrs)
    _expect_levels("conv2d", attrs)
    groups = attrs["groups"]
    expect(
        len(weight.shape) == 4, f"conv2d: weight has shape {weight.shape}, expected [O,I/g,kh,kw]"
    )
    out, per_group = weight.shape[:2]
    expect(
        groups >= 1 and per_group * groups == shape[1] and out % groups == 0,
        f"conv2d: weight {weight.shape} with {groups} groups does not fit x {shape}",
    )
    result = (1, out, *_window("conv2d", shape, list(weight.shape[2:]), attrs))
    expect_shape("conv2d", "bias", bias, (out,))
    expect_shape("conv2d", "residual", residual, result)
    return [result]


define(
    "conv2d",
    "x weight:const bias:const? residual?",
    _conv2d,
    **_WINDOW,
    dilations=("i[2]", [1, 1]),
    groups=("i", 1),
    activation=("s", "none"),
    **LEVELS,
)


def _pool(op):
    def infer(inputs, attrs):
        shape = expect_map(op, "x", inputs[0])
        (top, left, bottom, right), (kh, kw) = attrs["pads"], attrs["kernel"]
        expect(
            max(top, bottom) < kh and max(left, right) < kw,
            f"{op}: pads {attrs['pads']} must be smaller than the kernel {attrs['kernel']}",
        )
        return [(1, shape[1], *_window(op, shape, attrs["kernel"], attrs))]

    return infer


define("max_pool2d", "x", _pool("max_pool2d"), kernel="i[2]", **_WINDOW)
define("avg_pool2d", "x", _pool("avg_pool2d"), kernel="i[2]", **_WINDOW, count_include_pad=("i", 0))


def _linear(inputs, attrs):
    x, weight, bias, residual = inputs
    _expect_activation("linear", attrs)
    _expect_levels("linear", attrs)
    expect(
        len(x.shape) in (1, 2, 3) and len(weight.shape) == 2 and weight.shape[1] == x.shape[-1],
        f"linear: x {x.shape} and weight {weight.shape}; expected [..,K] of rank 1 to 3 and [N,K]",
    )
    result = (*x.shape[:-1], weight.shape[0])
    expect_shape("linear", "bias", bias, weight.shape[:1])
    expect_shape("linear", "residual", residual, result)
    return [result]


define(
    "linear",
    "x weight:const bias:const? residual?",
    _linear,
    activation=("s", "none"),
    **LEVELS,
)


def _attention(inputs, attrs):
    q, k, v = (value.shape for value in inputs)
    heads = attrs["heads"]
    expect(
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


define("attention", "q k v", _attention, mixed=True, heads=("i", 1), scale="f")


def _halo_attention(inputs, attrs):
    op = "halo_attention"
    q, k, v, rows, columns = inputs
    shape = expect_map(op, "q", q)
    block, halo, heads = attrs["block"], attrs["halo"], attrs["heads"]
    expect(
        block >= 1 and halo >= 0 and heads >= 1 and attrs["legacy_mask"] in (0, 1),
        f"{op}: block {block}, halo {halo}, heads {heads}, legacy_mask {attrs['legacy_mask']}; "
        "expected block and heads of at least 1, halo of at least 0, legacy_mask 0 or 1",
    )
    expect(
        shape[2] % block == 0 and shape[3] % block == 0,
        f"{op}: q has shape {shape}, expected a height and width divisible by block = {block}",
    )
    expect_shape(op, "k", k, shape)
    values = expect_map(op, "v", v)[1]
    expect_shape(op, "v", v, (1, values, *shape[2:]))
    expect(
        shape[1] % heads == 0 and values % heads == 0,
        f"{op}: q {shape} and v {v.shape}; expected channels divisible by heads = {heads}",
    )
    table_shape = (2 * (block + 2 * halo) - 1, shape[1] // heads)
    expect_shape(op, "rows", rows, table_shape)
    expect_shape(op, "columns", columns, table_shape)
    return [v.shape]


# Every block of queries reads the keys of the block and of a margin of `halo` around it.
define(
    "halo_attention",
    "q k v rows:const columns:const",
    _halo_attention,
    block="i",
    halo="i",
    heads=("i", 1),
    scale="f",
    legacy_mask=("i", 0),
)


def _layer_norm(inputs, attrs):
    x, gamma, beta, residual = inputs
    expect(len(x.shape) in (1, 2, 3), f"layer_norm: x has shape {x.shape}, expected rank 1 to 3")
    expect_shape("layer_norm", "gamma", gamma, x.shape[-1:])
    expect_shape("layer_norm", "beta", beta, x.shape[-1:])
    expect_shape("layer_norm", "residual", residual, x.shape)
    return [x.shape]


define("layer_norm", "x gamma:const beta:const residual?", _layer_norm, eps=("f", 1e-5))


def _batch_norm(inputs, attrs):
    shape = inputs[0].shape
    expect(len(shape) >= 2, f"batch_norm: x has shape {shape}, expected [1,C,..]")
    for name, value in zip(("gamma", "beta", "mean", "variance"), inputs[1:], strict=True):
        expect_shape("batch_norm", name, value, shape[1:2])
    return [shape]


define(
    "batch_norm",
    "x gamma:const beta:const mean:const variance:const",
    _batch_norm,
    engine=False,
    eps=("f", 1e-5),
)


def _softmax(inputs, attrs):
    shape = inputs[0].shape
    expect(len(shape) in (1, 2, 3), f"softmax: x has shape {shape}, expected rank 1 to 3")
    return [shape]


define("softmax", "x", _softmax)


def _same(inputs, attrs):
    return [inputs[0].shape]


for _name in ("relu", "sigmoid", "silu", "gelu", "tanh", "sqrt", "exp", "abs", "square", "neg"):
    define(_name, "x", _same)
for _name in ("identity", "erf"):
    define(_name, "x", _same, engine=False)


def _elementwise(op):
    def infer(inputs, attrs):
        a, b = inputs
        expect(
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
        expect(
            whole or spread or gate,
            f"{op}: {a!r} and {b!r}; expected activations of one shape, or a constant that is a "
            f"scalar or has one number for each channel, {list(channels)}, or for each element of "
            "a window, [1,t,D]",
        )
        return [a.shape]

    return infer


for _name in ARITHMETIC:
    define(_name, "a b", _elementwise(_name))
