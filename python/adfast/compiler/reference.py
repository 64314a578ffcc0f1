"""What each op of the table means, in plain numpy: the slow twin of the engine.

Used to fold constants and to test passes and kernels. Computes in float64 unless told otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adfast.compiler.graph import Graph, Node
from adfast.compiler.ops import LEVELS
from adfast.errors import CompileError

_ops: dict[str, Callable[..., Any]] = {}


def run(
    graph: Graph,
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    frame: np.ndarray | None = None,
    dtype: type = np.float64,
) -> dict[str, np.ndarray]:
    """Run a graph.

    Args:
        graph: engine ops or those of the compiler.
        inputs: one array for each graph input, by name, of its shape.
        frame: uint8 [h,w,3] (RGB) or [h,w], for a graph that begins with `frame`.
        dtype: float64 or float32, of every intermediate value.

    Returns:
        The outputs by role.
    """
    known = {value: np.asarray(inputs[value.name], dtype) for value in graph.inputs if inputs}
    for value, array in known.items():
        if array.shape != value.shape:
            raise CompileError(
                f"input {value.name}: got shape {array.shape}, expected {value.shape}"
            )
    known.update({value: np.asarray(value.array, dtype) for value in graph.constants()})
    for node in graph.nodes:
        operands = [None if value is None else known[value] for value in node.inputs]
        if node.op == "frame":
            if frame is None:
                raise CompileError("the graph begins with a frame, and none was given")
            operands = [frame]
        known.update(zip(node.outputs, evaluate(node, operands), strict=True))
    return {role: known[value] for role, value in graph.outputs.items()}


def evaluate(node: Node, operands: list[np.ndarray | None]) -> list[np.ndarray]:
    """Compute one node's outputs from arrays, in floats whatever the levels of its input."""
    attrs = {key: value for key, value in node.attrs.items() if key not in LEVELS}
    result = _ops[node.op](*operands, **attrs)
    return list(result) if isinstance(result, tuple) else [result]


def _op(function: Callable[..., Any]) -> Callable[..., Any]:
    _ops[function.__name__.strip("_")] = function
    return function


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _softmax_over(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


_ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "tanh": np.tanh,
}
_ops.update({name: function for name, function in _ACTIVATIONS.items() if name != "none"})
_ops.update(sqrt=np.sqrt, exp=np.exp, abs=np.abs, square=np.square, neg=np.negative, erf=_erf)
_ops.update(identity=lambda x: x)
_ops.update(add=np.add, sub=np.subtract, mul=np.multiply, div=np.divide)
_ops.update(max=np.maximum, min=np.minimum)


def antialias_weights(size: int, out: int, antialias: bool) -> np.ndarray:
    """Weights [out,size] of a bilinear resize of one axis, as torch's `interpolate` has them.

    With antialias the triangle widens by the shrink factor; corners are not aligned.
    """
    scale = size / out
    reach = max(scale, 1.0) if antialias else 1.0
    centre = scale * (np.arange(out) + 0.5)
    if not antialias:
        # Without antialias the ends are clamped, which moves their weight onto the edge pixel.
        centre = np.clip(centre, 0.5, size - 0.5)
    offsets = np.arange(size)[None, :] + 0.5 - centre[:, None]
    weights = np.maximum(1.0 - np.abs(offsets) / reach, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


@_op
def frame(image, resize, crop, antialias, scale, bias):
    """Resize, crop and scale a uint8 image [h,w,3] or [h,w] (values 0..255) into [1,3,H,W]."""
    pixels = np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3))
    rows = antialias_weights(image.shape[0], resize[0], bool(antialias))
    columns = antialias_weights(image.shape[1], resize[1], bool(antialias))
    resized = np.einsum("yh,hwc,xw->cyx", rows, pixels.astype(np.float64), columns, optimize=True)
    top, left = ((whole - part) // 2 for whole, part in zip(resize, crop, strict=True))
    cropped = resized[:, top : top + crop[0], left : left + crop[1]]
    return (cropped * np.reshape(scale, (3, 1, 1)) + np.reshape(bias, (3, 1, 1)))[None]


def _windows(x, kernel, strides, pads, dilations, fill):
    """[1,C,H,W] as [C,oh,ow,kh,kw]."""
    top, left, bottom, right = pads
    padded = np.pad(x[0], ((0, 0), (top, bottom), (left, right)), constant_values=fill)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    return windows[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


@_op
def _conv2d(x, weight, bias, residual, strides, pads, dilations, groups, activation):
    windows = _windows(x, weight.shape[2:], strides, pads, dilations, 0.0)
    grouped = windows.reshape(groups, -1, *windows.shape[1:])
    weights = weight.reshape(groups, -1, *weight.shape[1:])
    y = np.concatenate(
        [
            np.tensordot(w, part, axes=([1, 2, 3], [0, 3, 4]))
            for w, part in zip(weights, grouped, strict=True)
        ]
    )[None]
    if bias is not None:
        y = y + bias[:, None, None]
    return _ACTIVATIONS[activation](y if residual is None else y + residual)


@_op
def _max_pool2d(x, kernel, strides, pads):
    return _windows(x, kernel, strides, pads, [1, 1], -np.inf).max(axis=(3, 4))[None]


@_op
def _avg_pool2d(x, kernel, strides, pads, count_include_pad):
    total = _windows(x, kernel, strides, pads, [1, 1], 0.0).sum(axis=(3, 4))[None]
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    counts = _windows(ones, kernel, strides, pads, [1, 1], float(bool(count_include_pad)))
    return total / counts.sum(axis=(3, 4))[None]


@_op
def _linear(x, weight, bias, residual, activation):
    y = x @ weight.T
    if bias is not None:
        y = y + bias
    return _ACTIVATIONS[activation](y if residual is None else y + residual)


@_op
def _attention(q, k, v, heads, scale):
    def split(x):
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    weights = _softmax_over(scale * split(q) @ split(k).transpose(0, 1, 3, 2), -1)
    return (weights @ split(v)).transpose(0, 2, 1, 3).reshape(*q.shape[:2], -1)


@_op
def _window_gather(x, index):
    return x[0, index.astype(np.int64)]


@_op
def _token_attention(x, weight, bias, scale):
    pixels = x.reshape(x.shape[1], -1)
    logits = weight @ pixels
    if bias is not None:
        logits = logits + bias[:, None]
    return (_softmax_over(scale * logits, -1) @ pixels.T)[None]


@_op
def _projector_attention(x, residual, key, key_bias, value, scale):
    logits = key[0] @ x.reshape(x.shape[1], -1)
    if key_bias is not None:
        logits = logits + key_bias[0]
    read = value[0].T @ _softmax_over(scale * logits, 0)
    return residual + read.reshape(residual.shape)


@_op
def _query_projector_attention(x, features, weight, bias, key, value, scale):
    query = weight @ x.reshape(x.shape[1], -1) + bias[:, None]
    read = value[0].T @ _softmax_over(scale * (key[0] @ query), 0)
    return features + read.reshape(features.shape)


@_op
def _score_map(a, b):
    pixels = a.shape[2] * a.shape[3]
    squares = np.square(a - b).sum(axis=1, keepdims=True) / pixels
    norms = np.sqrt(np.square(a).sum() * np.square(b).sum())
    cos = 1 - (a * b).sum() / max(norms, 1e-12)
    return 0.5 * squares, squares.sum().reshape(1), np.reshape(cos, 1)


@_op
def _projector_score_map(x, residual, key, key_bias, value, scale):
    return _score_map(x, _projector_attention(x, residual, key, key_bias, value, scale))


@_op
def _fuse_maps(*operands, mode, height, width):
    # GTrans, eq. 17-19 and table 7.
    m = {}
    for level in range(3):
        distance, mse, cos = operands[3 * level : 3 * level + 3]
        weighted = operands[9][level] * cos
        total = mse + weighted
        alpha = np.where(total > 0, weighted * mse / np.where(total > 0, total, 1), 0)
        m[level + 1] = alpha * _resize_bilinear(distance, height, width, 0)
    return {
        1: lambda: m[3],
        2: lambda: m[1] * m[3],
        3: lambda: m[2] * m[3],
        4: lambda: m[1] + m[2] + m[3],
        5: lambda: m[1] * m[2] * m[3],
        6: lambda: m[1] * m[3] + m[2] * m[3],
    }[mode]()


@_op
def _gaussian_blur(x, kernel):
    half = kernel.size // 2
    padded = np.pad(x[0, 0], half, mode="reflect")
    view = np.lib.stride_tricks.sliding_window_view
    rows = view(padded, kernel.size, axis=0) @ kernel
    return (view(rows, kernel.size, axis=1) @ kernel)[None, None]


@_op
def _gms_map(a, b, c):
    def magnitude(x):
        padded = np.pad(x[0], ((0, 0), (1, 1), (1, 1)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        prewitt = np.array([[-1, 0, 1]] * 3) / 3
        across, down = ((windows * kernel).sum(axis=(3, 4)) for kernel in (prewitt, prewitt.T))
        return np.sqrt(across**2 + down**2)

    ga, gb = magnitude(a), magnitude(b)
    return 1 - ((2 * ga * gb + c) / (ga**2 + gb**2 + c)).mean(axis=0)[None, None]


@_op
def _calibrate_map(x, mean, mode):
    return {"square": np.square, "absolute": np.abs}[mode](x - mean)


@_op
def _depth_to_space(x, block):
    _, channels, height, width = x.shape
    blocks = x.reshape(block, block, channels // block**2, height, width)
    moved = blocks.transpose(2, 3, 0, 4, 1)
    return moved.reshape(1, channels // block**2, height * block, width * block)


@_op
def _layer_norm(x, gamma, beta, residual, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + eps) * gamma + beta
    return y if residual is None else y + residual


@_op
def _softmax(x):
    return _softmax_over(x, -1)


@_op
def _batch_norm(x, gamma, beta, mean, variance, eps):
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = gamma / np.sqrt(variance + eps)
    return x * scale.reshape(shape) + (beta - mean * scale).reshape(shape)


@_op
def _concat(*values, axis):
    return np.concatenate(values, axis=axis)


@_op
def _slice(x, axis, start, end):
    return np.take(x, range(start, end), axis=axis)


@_op
def _reduce_mean(x, axes, keepdims):
    return x.mean(axis=tuple(axes), keepdims=bool(keepdims))


@_op
def _reduce_sum(x, axes, keepdims):
    return x.sum(axis=tuple(axes), keepdims=bool(keepdims))


@_op
def _reduce_max(x, axes, keepdims):
    return x.max(axis=tuple(axes), keepdims=bool(keepdims))


@_op
def _resize_bilinear(x, height, width, align_corners):
    def weights(size, out):
        if not align_corners:
            return antialias_weights(size, out, False)
        places = np.arange(out) * ((size - 1) / (out - 1) if out > 1 else 0.0)
        return np.maximum(1 - np.abs(places[:, None] - np.arange(size)[None, :]), 0)

    rows, columns = weights(x.shape[2], height), weights(x.shape[3], width)
    return np.einsum("yh,nchw,xw->ncyx", rows, x, columns, optimize=True).astype(x.dtype)


@_op
def _resize_nearest(x, height, width):
    rows = np.arange(height) * x.shape[2] // height
    columns = np.arange(width) * x.shape[3] // width
    return x[:, :, rows[:, None], columns]


@_op
def _reflection_pad2d(x, pads):
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), mode="reflect")


@_op
def _halo_attention(q, k, v, rows, columns, block, halo, heads, scale, legacy_mask):
    height, width = q.shape[2:]
    side = block + 2 * halo
    margin = ((0, 0), (0, 0), (halo, halo), (halo, halo))
    queries = q.reshape(heads, -1, height, width)
    keys, values = (np.pad(x.reshape(heads, -1, height, width), margin) for x in (k, v))
    inside = np.pad(np.ones((1, 1, height, width), bool), margin)[0, 0]
    # [query, key] along one axis: which row of the table belongs to their distance.
    apart = np.arange(side) - np.arange(block)[:, None] + side - 1
    y = np.empty((heads, values.shape[1], height, width), v.dtype)
    for top, left in np.ndindex(height // block, width // block):
        top, left = top * block, left * block
        here = np.s_[..., top : top + block, left : left + block]
        near = np.s_[..., top : top + side, left : left + side]
        query = queries[here]
        logits = np.einsum("hdij,hdkl->hijkl", query, keys[near], optimize=True)
        logits += np.einsum("hdij,ikd->hijk", query, rows[apart])[..., None]
        logits += np.einsum("hdij,jld->hijl", query, columns[apart])[:, :, :, None]
        logits *= scale
        if legacy_mask:
            logits[..., inside[near]] = np.finfo(np.float32).min
        else:
            logits[..., ~inside[near]] = -np.inf
        weights = _softmax_over(logits.reshape(heads, block, block, -1), -1)
        value = values[near].reshape(heads, -1, side * side)
        y[here] = np.einsum("hijk,hck->hcij", weights, value, optimize=True)
    return y.reshape(v.shape)


@_op
def _tokens(x):
    return x.reshape(1, x.shape[1], -1).transpose(0, 2, 1)


@_op
def _feature_map(x, height, width):
    return x.transpose(0, 2, 1).reshape(1, -1, height, width)


@_op
def _view(x, shape):
    return x.reshape(shape)


@_op
def _pad(x, pads):
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


@_op
def _reshape(x, shape):
    return x.reshape(shape)


@_op
def _transpose(x, order):
    return x.transpose(order)
