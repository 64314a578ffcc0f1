"""Every op of the engine with the shapes it is tested and timed on.

One list serves tests/ops (against the numpy reference of the compiler, on every instruction set
and in both precisions) and bench/ops.py (the ones that are `hot`: the sizes of a real network).
Sizes are odd on purpose: 1, 3 and 1023 pixels, and channel counts around the widths of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adfast.compiler.graph import Graph


@dataclass(frozen=True)
class Operand:
    """A random tensor, uniform in [low, high]: an input, or a constant of the plan.

    With `near`, the first operand plus noise of that amplitude instead. With `rows`, a constant of
    integers from 0 to rows - 1.
    """

    shape: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0
    constant: bool = False
    near: float | None = None
    rows: int = 0


@dataclass(frozen=True)
class Case:
    """One node, its operands in the order of the op table (None: absent), and its attributes.

    `f32` and `bf16` are what the result may differ from the reference by, as a fraction of the
    largest expected value.
    """

    op: str
    operands: tuple[Operand | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    f32: float = 1e-5
    bf16: float = 8e-3  # two roundings of 2^-9, and a little of the operands'
    hot: bool = False

    def __str__(self) -> str:
        shapes = [operand.shape for operand in self.operands if operand is not None]
        sizes = "x".join(str(size) for size in shapes[0][1 if len(shapes[0]) > 1 else 0 :])
        return "-".join(part for part in (self.op, self.label, sizes) if part)

    def arrays(self, seed: int = 0) -> list[np.ndarray | None]:
        """Make the operands' float32 values, always the same for a seed."""
        random = np.random.default_rng([seed, *self.op.encode()])
        made: list[np.ndarray | None] = []
        for operand in self.operands:
            if operand is None:
                made.append(None)
                continue
            if operand.rows:
                made.append(random.integers(0, operand.rows, operand.shape, np.int32))
                continue
            if operand.near is None:
                array = random.uniform(operand.low, operand.high, operand.shape)
            else:
                array = made[0] + random.uniform(-operand.near, operand.near, operand.shape)
            made.append(np.asarray(array, np.float32))
        return made

    def graph(self, arrays: list[np.ndarray | None]) -> tuple[Graph, dict[str, np.ndarray]]:
        """Build the plan's graph, this node alone, and its inputs by name.

        Outputs are named out0, out1, ...
        """
        graph = Graph(self.op)
        values, inputs = [], {}
        for index, (operand, array) in enumerate(zip(self.operands, arrays, strict=True)):
            if operand is None:
                values.append(None)
            elif operand.rows:
                values.append(graph.index(f"index{index}", array))
            elif operand.constant:
                values.append(graph.constant(f"constant{index}", array))
            else:
                values.append(graph.input(f"in{index}", operand.shape))
                inputs[f"in{index}"] = array
        for index, output in enumerate(graph.add(self.op, values, self.attrs)):
            graph.output(f"out{index}", output)
        return graph, inputs


def rounded(array: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, ties to even."""
    bits = array.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def act(*shape: int, low: float = -1.0, high: float = 1.0, near: float | None = None) -> Operand:
    return Operand(shape, low, high, False, near)


def const(*shape: int, low: float = -1.0, high: float = 1.0) -> Operand:
    return Operand(shape, low, high, True)


def index(*shape: int, rows: int) -> Operand:
    return Operand(shape, constant=True, rows=rows)


def _conv2d(
    channels: int,
    out: int,
    kernel: int | tuple[int, int],
    size: tuple[int, int],
    result: tuple[int, int] | None = None,
    bias: bool = True,
    groups: int = 1,
    label: str = "",
    **attrs: Any,
) -> Case:
    """`result` is the output's size; given, a residual of that size is added."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    fan_in = channels // groups * kernel[0] * kernel[1]
    reach = fan_in**-0.5
    return Case(
        "conv2d",
        (
            act(1, channels, *size),
            const(out, channels // groups, *kernel, low=-reach, high=reach),
            const(out) if bias else None,
            act(1, out, *result) if result else None,
        ),
        {"groups": groups, **attrs},
        label,
        bf16=1.5e-2,  # weights are rounded as well
    )


def _conv2d_cases() -> list[Case]:
    pad = {"pads": [1, 1, 1, 1]}
    cases = [
        _conv2d(1, 1, 1, (1, 1), label="one"),
        _conv2d(3, 17, 3, (11, 9), label="3x3", **pad),
        _conv2d(3, 16, 7, (23, 21), label="7x7 stride 2", strides=[2, 2], pads=[3, 3, 3, 3]),
        _conv2d(65, 7, 1, (33, 31), bias=False, label="1x1"),
        _conv2d(16, 24, 1, (15, 13), label="1x1 stride 2", strides=[2, 2], activation="relu"),
        _conv2d(16, 16, 3, (9, 9), groups=16, label="depthwise", activation="silu", **pad),
        _conv2d(12, 18, 3, (8, 7), groups=3, label="groups", **pad),
        _conv2d(8, 8, 3, (13, 11), label="dilated", dilations=[2, 3], pads=[2, 3, 2, 3]),
        _conv2d(5, 6, (3, 5), (9, 14), label="odd pads", pads=[0, 2, 1, 3], strides=[2, 1]),
        _conv2d(5, 6, (1, 7), (3, 14), label="wide", pads=[0, 3, 0, 3]),
        _conv2d(16, 16, 3, (10, 12), (10, 12), label="residual", activation="relu", **pad),
        _conv2d(8, 17, 1, (5, 3), (5, 3), bias=False, label="residual no bias"),
        _conv2d(40, 33, 1, (9, 7), (9, 7), label="1x1 residual", activation="silu"),
        _conv2d(144, 20, 3, (6, 5), (6, 5), label="deep", activation="silu", **pad),
        _conv2d(144, 13, 3, (5, 3), bias=False, label="deep, odd", strides=[2, 1], **pad),
        _conv2d(21, 18, (3, 2), (7, 9), label="odd channels", pads=[1, 0, 1, 1], dilations=[1, 2]),
    ]
    for activation in ("none", "relu", "sigmoid", "silu", "gelu", "tanh"):
        cases.append(
            _conv2d(8, 9, 3, (6, 5), (6, 5), label=activation, activation=activation, **pad)
        )
    return cases


def _pool_cases() -> list[Case]:
    windows = [
        ([3, 3], [2, 2], [1, 1, 1, 1], (17, 13)),
        ([2, 2], [2, 2], [0, 0, 0, 0], (8, 6)),
        ([3, 2], [1, 2], [1, 0, 2, 1], (7, 9)),
        ([1, 1], [1, 1], [0, 0, 0, 0], (1, 1)),
        ([9, 7], [1, 1], [0, 0, 0, 0], (9, 7)),
        ([16, 16], [1, 1], [0, 0, 0, 0], (33, 31)),
    ]
    cases = []
    for (kernel, strides, pads, size), channels in zip(windows, (17, 64, 7, 1, 65, 1), strict=True):
        attrs = {"kernel": kernel, "strides": strides, "pads": pads}
        x = (act(1, channels, *size),)
        cases.append(Case("max_pool2d", x, attrs))
        # All below zero: padding must not win.
        cases.append(Case("max_pool2d", (act(1, channels, *size, low=-2),), attrs, "negative"))
        for include in (0, 1):
            label = "pads counted" if include else ""
            cases.append(Case("avg_pool2d", x, {**attrs, "count_include_pad": include}, label))
    return cases


def _linear_cases() -> list[Case]:
    def linear(shape, out, label="", bias=True, residual=False, hot=False, **attrs):
        width = shape[-1]
        reach = width**-0.5
        return Case(
            "linear",
            (
                act(*shape),
                const(out, width, low=-reach, high=reach),
                const(out) if bias else None,
                act(*shape[:-1], out) if residual else None,
            ),
            attrs,
            label,
            bf16=1.5e-2,
            hot=hot,
        )

    cases = [
        linear((1, 1, 1), 1, bias=False),
        linear((1, 3, 7), 5),
        linear((1, 24, 65), 17, residual=True),
        linear((9, 33), 64),
        linear((31,), 12, "vector", residual=True, activation="relu"),
        linear((1, 8, 256), 512),
        # Many rows: in bf16 these are products of bf16.
        linear((1, 64, 33), 17, "many rows"),
        linear((1, 257, 48), 65, "many rows", residual=True, activation="gelu"),
        linear((100, 7), 9, "many rows", bias=False, activation="relu"),
        linear((1, 577, 768), 768, "ViT-B", hot=True),
        linear((1, 256, 256), 1024, "ADTR", activation="relu", hot=True),
    ]
    for activation in ("none", "relu", "sigmoid", "silu", "gelu", "tanh"):
        cases.append(linear((1, 5, 16), 9, activation, residual=True, activation=activation))
        cases.append(linear((1, 70, 50), 40, f"many rows {activation}", activation=activation))
    return cases


def _attention_cases() -> list[Case]:
    def attention(queries, keys, dim, value_dim, heads, q=act, kv=act, label="", hot=False):
        shapes = (q(1, queries, dim), kv(1, keys, dim), kv(1, keys, value_dim))
        attrs = {"heads": heads, "scale": 4 * (dim // heads) ** -0.5}
        return Case("attention", shapes, attrs, label or f"{keys} keys", hot=hot)

    def windows(count, queries, keys, dim, value_dim, heads, kv=act, hot=False):
        shapes = (
            act(count, queries, dim),
            kv(count, keys, dim),
            kv(count, keys, value_dim),
        )
        attrs = {"heads": heads, "scale": 4 * (dim // heads) ** -0.5}
        return Case("attention", shapes, attrs, f"{count} windows", hot=hot)

    return [
        windows(3, 5, 7, 21, 9, 3),
        windows(2, 1, 1, 1, 1, 1),
        windows(5, 9, 65, 34, 17, 1, kv=const),
        windows(7, 49, 49, 64, 128, 2),
        windows(32, 49, 49, 256, 512, 8, hot=True),
        attention(1, 1, 1, 1, 1),
        attention(3, 5, 21, 9, 3),
        attention(24, 24, 64, 64, 8),
        attention(7, 65, 34, 17, 1),
        attention(65, 257, 66, 102, 3),
        attention(31, 1023, 32, 33, 1),
        attention(50, 64, 96, 96, 2),
        attention(13, 130, 32, 32, 4, q=const, label="constant query"),
        attention(13, 130, 32, 32, 4, kv=const, label="constant keys"),
        attention(256, 256, 256, 256, 8, label="ADTR", hot=True),
        attention(577, 577, 768, 768, 12, label="ViT-B", hot=True),
    ]


def _halo_attention_cases() -> list[Case]:
    def halo_attention(heads, dim, value_dim, size, block, halo, label="", hot=False, **attrs):
        table = const(2 * (block + 2 * halo) - 1, dim)
        q = act(1, heads * dim, *size)
        attrs = {"block": block, "halo": halo, "heads": heads, "scale": 2 * dim**-0.5, **attrs}
        label = label or f"block {block} halo {halo}"
        operands = (q, q, act(1, heads * value_dim, *size), table, table)
        return Case("halo_attention", operands, attrs, label, hot=hot)

    cases = []
    for legacy, label in ((0, ""), (1, "legacy")):
        mask = {"legacy_mask": legacy, "label": label}
        cases += [
            halo_attention(1, 1, 1, (1, 1), 1, 0, **mask),
            halo_attention(1, 5, 3, (3, 3), 3, 1, **mask),
            halo_attention(3, 7, 17, (6, 9), 3, 1, **mask),
            halo_attention(2, 16, 16, (8, 4), 4, 0, **mask),
            halo_attention(1, 33, 40, (12, 12), 6, 2, **mask),
            # The halo reaches over the neighbouring block.
            halo_attention(2, 9, 65, (6, 4), 2, 3, **mask),
            halo_attention(2, 4, 130, (5, 10), 5, 1, **mask),
            halo_attention(1, 16, 16, (36, 36), 12, 2, **mask),
        ]
    return cases + [
        halo_attention(4, 16, 16, (60, 60), 12, 2, "HaloAE 4 heads", hot=True),
        halo_attention(8, 16, 16, (60, 60), 12, 2, "HaloAE 8 heads", hot=True),
    ]


# [channels, height, width] with tails of every kind; 33 * 31 = 1023 pixels.
_MAPS = [(1, 1, 1), (7, 1, 3), (17, 3, 1), (65, 33, 31), (64, 16, 12), (300, 3, 5)]
# The three stages of GTrans-R34 and of GTrans-WR50 at 224 pixels.
_STAGES = [(64, 56, 56), (128, 28, 28), (256, 14, 14), (256, 56, 56), (512, 28, 28), (1024, 14, 14)]


def _token_attention_cases() -> list[Case]:
    def case(shape, groups, bias=True, hot=False):
        reach = 2 * shape[0] ** -0.5
        return Case(
            "token_attention",
            (
                act(1, *shape),
                const(groups, shape[0], low=-reach, high=reach),
                const(groups) if bias else None,
            ),
            {"scale": 1.5},
            f"{groups} groups" + ("" if bias else " no bias"),
            hot=hot,
        )

    cases = [case(shape, 8) for shape in _MAPS]
    cases += [case((17, 9, 7), groups, bias=False) for groups in (1, 3, 9, 16)]
    return cases + [case(shape, 8, hot=True) for shape in _STAGES]


def _projector_cases(op: str) -> list[Case]:
    def case(shape, tokens, bias=True, hot=False):
        reach = 2 * shape[0] ** -0.5
        return Case(
            op,
            (
                act(1, *shape),
                act(1, *shape),
                act(1, tokens, shape[0], low=-reach, high=reach),
                act(1, tokens, 1) if bias else None,
                act(1, tokens, shape[0]),
            ),
            {"scale": 0.7},
            f"{tokens} tokens" + ("" if bias else " no bias"),
            f32=2e-5,
            hot=hot,
        )

    cases = [case(shape, 8) for shape in _MAPS]
    cases += [case((17, 9, 7), tokens, bias=False) for tokens in (1, 3, 9, 24)]
    return cases + [case(shape, 8, hot=True) for shape in _STAGES]


def _score_map_cases() -> list[Case]:
    cases = [Case("score_map", (act(1, *shape), act(1, *shape)), f32=2e-5) for shape in _MAPS]
    for apart in (1e-1, 1e-2, 1e-3):
        # Nearly equal: their cosine distance must not drown in the rounding of their norms.
        near = (act(1, 65, 9, 7), act(1, 65, 9, 7, near=apart))
        cases.append(Case("score_map", near, {}, f"{apart:g} apart", f32=3e-5))
    return cases + [
        Case("score_map", (act(1, *shape), act(1, *shape)), f32=2e-5, hot=True) for shape in _STAGES
    ]


def _fuse_maps_cases() -> list[Case]:
    def case(sides, mode, height, width, hot=False):
        operands = []
        for side in sides:
            operands += [
                act(1, 1, *side, low=0),
                act(1, low=0.1, high=2),
                act(1, low=0.01, high=0.5),
            ]
        attrs = {"mode": mode, "height": height, "width": width}
        return Case(
            "fuse_maps",
            (*operands, const(3, low=0.5, high=2)),
            attrs,
            f"mode {mode} to {height}x{width}",
            bf16=1e-5,
            hot=hot,
        )

    network = [(56, 56), (28, 28), (14, 14)]
    cases = [case(network, mode, 224, 224, hot=mode == 6) for mode in range(1, 7)]
    for mode in (4, 6):
        cases.append(case([(1, 1), (1, 1), (1, 1)], mode, 1, 1))
        cases.append(case([(9, 76), (5, 38), (3, 19)], mode, 33, 301))
        cases.append(case([(11, 17), (5, 7), (1, 1)], mode, 5, 7))
    return cases


def _blur_cases() -> list[Case]:
    def case(height, width, taps, hot=False):
        kernel = const(taps, low=0, high=2 / taps)
        return Case(
            "gaussian_blur",
            (act(1, 1, height, width), kernel),
            {},
            f"{taps} taps",
            bf16=1e-5,
            hot=hot,
        )

    sizes = [(1, 1, 1), (5, 3, 3), (17, 17, 33), (33, 31, 5), (9, 133, 11)]
    return [case(*size) for size in sizes] + [case(224, 224, 33, hot=True)]


def _gms_cases() -> list[Case]:
    cases = []
    for shape in ((1, 1, 1), (3, 1, 7), (3, 9, 1), (3, 33, 31), (1, 5, 17), (17, 4, 3)):
        images = (act(1, *shape, low=0), act(1, *shape, low=0))
        # In bf16, alone, the images come as they are.
        cases.append(Case("gms_map", images, {"c": 0.0026}, f32=2e-5, bf16=2e-5))
    # Nearly equal images: what is left must not be rounding.
    near = (act(1, 3, 33, 31, low=0), act(1, 3, 33, 31, near=1e-2))
    cases.append(Case("gms_map", near, {"c": 0.0026}, "near", f32=1e-4, bf16=5e-4))
    return cases


def _calibrate_cases() -> list[Case]:
    return [
        Case(
            "calibrate_map",
            (act(1, 1, *size, low=0), const(1, 1, *size, low=0)),
            {"mode": mode},
            mode,
            f32=1e-6,
            bf16=1e-6,
        )
        for mode in ("square", "absolute")
        for size in ((1, 1), (1, 3), (33, 31))
    ]


def _resize_cases() -> list[Case]:
    sizes = [
        ((1, 1, 1), (5, 7)),
        ((1, 56, 57), (61, 301)),
        ((1, 33, 31), (7, 9)),
        ((1, 3, 700), (5, 1023)),
        ((7, 5, 3), (9, 11)),
        ((65, 6, 4), (3, 5)),
        ((17, 4, 4), (4, 4)),
    ]
    cases = []
    for shape, (height, width) in sizes:
        attrs = {"height": height, "width": width}
        label = f"to {height}x{width}"
        cases.append(Case("resize_nearest", (act(1, *shape),), attrs, label, f32=0, bf16=0))
        for corners in (0, 1):
            attrs = {"height": height, "width": width, "align_corners": corners}
            label = f"to {height}x{width}" + (" corners" if corners else "")
            cases.append(Case("resize_bilinear", (act(1, *shape),), attrs, label))
    return cases


def _reflection_pad_cases() -> list[Case]:
    sizes = [
        ((1, 1, 1), [0, 0, 0, 0]),
        ((3, 2, 2), [1, 1, 1, 1]),
        ((17, 5, 7), [4, 0, 2, 6]),
        ((65, 1, 3), [0, 2, 0, 1]),
        ((7, 33, 31), [1, 1, 1, 1]),
        ((64, 256, 256), [1, 1, 1, 1]),
    ]
    return [
        Case("reflection_pad2d", (act(1, *shape),), {"pads": pads}, f"by {max(pads)}", 0, 0)
        for shape, pads in sizes
    ]


def _row_cases() -> list[Case]:
    cases = []
    for shape in ((1, 3, 7), (1, 1, 16), (1, 24, 65), (3, 1023), (768,)):
        width = shape[-1]
        x, gamma, beta = act(*shape, low=-3, high=5), const(width), const(width)
        attrs = {"eps": 1e-5}
        cases.append(Case("layer_norm", (x, gamma, beta, None), attrs, bf16=1e-5))
        residual = (x, gamma, beta, act(*shape))
        cases.append(Case("layer_norm", residual, attrs, "residual", bf16=1e-5))
        cases.append(Case("softmax", (act(*shape, low=-30, high=30),), bf16=1e-5))
    # A mean far above the deviation, where one pass over the squares would lose everything.
    far = (act(1, 3, 65, low=999, high=1001), const(65), const(65), None)
    return cases + [Case("layer_norm", far, {}, "far from zero", f32=2e-4, bf16=2e-4)]


def _elementwise_cases() -> list[Case]:
    cases = []
    for op in ("relu", "sigmoid", "silu", "gelu", "tanh", "sqrt", "exp", "abs", "square", "neg"):
        low = 0 if op == "sqrt" else -6
        for shape in ((1, 7, 5, 3), (1, 1, 1, 1), (1, 65, 3, 1), (1, 3, 17), (1023,)):
            # exp magnifies the rounding of its argument.
            bf16 = 4e-2 if op == "exp" else 1.2e-2
            cases.append(Case(op, (act(*shape, low=low, high=6),), f32=2e-6, bf16=bf16))
    for op in ("add", "sub", "mul", "div", "max", "min"):
        for shape in ((1, 7, 5, 3), (1, 65, 3, 1), (1, 1, 1, 1), (1, 3, 17), (3, 1023)):
            channels = (1, shape[1], 1, 1) if len(shape) == 4 else shape[-1:]
            for b, label in (
                (act(*shape, low=0.5, high=2), ""),
                (const(low=0.5, high=2), "scalar"),
                (const(*channels, low=0.5, high=2), "channels"),
            ):
                case = Case(op, (act(*shape), b), {}, label, f32=1e-6, bf16=1.2e-2)
                cases.append(case)
        window = (act(5, 3, 17), const(1, 3, 17, low=0.5, high=2))
        cases.append(Case(op, window, {}, "windows", f32=1e-6, bf16=1e-6))
    for shape in ((1, 7, 5, 3), (1, 65, 3, 1), (1, 1, 9, 7), (1, 33, 1, 1)):
        gate = act(1, shape[1], 1, 1)
        cases.append(Case("mul", (act(*shape), gate), {}, "gate", f32=1e-6, bf16=1.2e-2))
    return cases


def _shape_cases() -> list[Case]:
    cases = []
    for shape, axis, parts in (
        ((1, 3, 7), 1, (1, 3, 2)),
        ((1, 3, 7), 2, (7, 65)),
        ((2, 3, 5), 0, (2, 1)),
        ((1, 5, 3, 4), 1, (5, 17, 1)),
    ):
        operands = tuple(act(*shape[:axis], part, *shape[axis + 1 :]) for part in parts)
        cases.append(Case("concat", operands, {"axis": axis}, f"axis {axis}"))
    pair = (act(1, 3, 7), const(1, 1, 7), act(1, 5, 7))
    cases.append(Case("concat", pair, {"axis": 1}, "constant"))
    for shape in _MAPS:
        cases.append(Case("tokens", (act(1, *shape),)))
        attrs = {"height": shape[1], "width": shape[2]}
        cases.append(Case("feature_map", (act(1, shape[1] * shape[2], shape[0]),), attrs))
    for shape, wanted in (((1, 3, 8), (3, 8)), ((24,), (1, 4, 6)), ((1, 1), (1,))):
        cases.append(Case("view", (act(*shape),), {"shape": list(wanted)}))
    for rows, windows, tokens, width in ((1, 1, 1, 1), (9, 3, 5, 7), (65, 17, 4, 1023)):
        for x in (act, const):
            operands = (x(1, rows, width), index(windows, tokens, rows=rows))
            label = "constant" if x is const else ""
            cases.append(Case("window_gather", operands, {}, label, f32=0, bf16=0))
    for shape, block in (((1, 1, 1), 1), ((12, 3, 5), 2), ((63, 5, 3), 3), ((768, 4, 3), 16)):
        x = (act(1, *shape),)
        cases.append(Case("depth_to_space", x, {"block": block}, f"block {block}", f32=0))
    for shape, axis, start, end in (
        ((1, 9, 7), 1, 2, 5),
        ((1, 9, 65), 2, 1, 18),
        ((1, 33, 5, 3), 1, 3, 20),
    ):
        attrs = {"axis": axis, "start": start, "end": end}
        cases.append(Case("slice", (act(*shape),), attrs, f"axis {axis}"))
    for op in ("reduce_mean", "reduce_sum", "reduce_max"):
        for shape in ((1, 1, 1), (1, 7, 3), (3, 49, 65), (5, 1, 17), (2, 1023, 1)):
            attrs = {"axes": [1], "keepdims": 0}
            cases.append(Case(op, (act(*shape, low=-3, high=-1),), attrs, "tokens", bf16=1e-5))
        for shape in _MAPS:
            attrs = {"axes": [1], "keepdims": 1}
            cases.append(Case(op, (act(1, *shape, low=-3, high=-1),), attrs, "channels"))
        for size in ((1, 1), (1, 3), (33, 31), (224, 224)):
            attrs = {"axes": [1, 2, 3], "keepdims": 0}
            cases.append(Case(op, (act(1, 1, *size, low=-3, high=-1),), attrs, "map"))
    return cases


CASES: list[Case] = [
    *_conv2d_cases(),
    *_pool_cases(),
    *_linear_cases(),
    *_attention_cases(),
    *_halo_attention_cases(),
    *_token_attention_cases(),
    *_projector_cases("projector_attention"),
    *_projector_cases("projector_score_map"),
    *_score_map_cases(),
    *_fuse_maps_cases(),
    *_blur_cases(),
    *_gms_cases(),
    *_calibrate_cases(),
    *_resize_cases(),
    *_reflection_pad_cases(),
    *_row_cases(),
    *_elementwise_cases(),
    *_shape_cases(),
]
