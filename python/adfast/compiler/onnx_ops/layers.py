"""ONNX ops of layers: convolutions, pooling, products, normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from adfast.compiler.graph import Value
from adfast.compiler.importer import Call, Unsupported
from adfast.compiler.onnx_ops.registry import onnx


@onnx("Conv")
def _conv(call: Call) -> Value:
    x = call.value(0)
    weight = call.constant(1, "weight")
    if weight.ndim != 4 or len(x.shape) != 4:
        raise Unsupported(
            f"input {x.shape} and weight {weight.shape}; only 2-D convolution is available"
        )
    bias = None
    if call.has(2):
        call.constant(2, "bias")
        bias = call.value(2)
    kernel = list(weight.shape[2:])
    attrs = _window(call, x, kernel)
    return call.add("conv2d", [x, call.value(1), bias], groups=call.attrs.get("group", 1), **attrs)


@onnx("ConvTranspose")
def _conv_transpose(call: Call) -> Value:
    """With a stride of 1 it is a convolution by the flipped, transposed weight."""
    x = call.value(0)
    weight = call.constant(1, "weight")
    groups = call.attrs.get("group", 1)
    if weight.ndim != 4 or len(x.shape) != 4:
        raise Unsupported(
            f"input {x.shape} and weight {weight.shape}; only 2-D convolution is available"
        )
    if weight.shape[0] != x.shape[1] or groups < 1 or x.shape[1] % groups:
        raise Unsupported(f"weight {weight.shape} with {groups} groups does not fit x {x.shape}")
    kernel = list(weight.shape[2:])
    attrs = _window(call, x, kernel)
    mode = call.attrs.get("auto_pad", "NOTSET")
    if attrs["strides"] != [1, 1]:
        raise Unsupported(
            f"strides {attrs['strides']}; only 1 is available: resize, then convolve instead"
        )
    if mode not in ("NOTSET", "VALID") or "output_shape" in call.attrs:
        raise Unsupported("auto_pad and output_shape are not available; give the pads")
    if any(call.attrs.get("output_padding", ())):
        raise Unsupported(f"output_padding {call.attrs['output_padding']} is not available")
    reach = [step * (size - 1) for step, size in zip(attrs["dilations"], kernel, strict=True)]
    attrs["pads"] = [most - pad for most, pad in zip(reach * 2, attrs["pads"], strict=True)]
    if min(attrs["pads"]) < 0:
        raise Unsupported("pads that crop more than the kernel's reach are not available")
    split = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    turned = split.reshape(-1, split.shape[2], *kernel)[:, :, ::-1, ::-1]
    bias = None
    if call.has(2):
        call.constant(2, "bias")
        bias = call.value(2)
    inputs = [x, call.new_constant("weight", turned), bias]
    return call.add("conv2d", inputs, groups=groups, **attrs)


@onnx("Pad")
def _pad(call: Call) -> Value:
    x = call.value(0)
    mode = call.attrs.get("mode", "constant")
    fill = call.optional_constant(2, "fill value")
    zeros = mode == "constant" and (fill is None or not fill.any())
    if len(x.shape) != 4 or not (zeros or mode == "reflect"):
        raise Unsupported(
            f"mode {mode!r} of shape {x.shape}; only zeros or 'reflect' around [B,C,H,W]"
        )
    axes = call.optional_constant(3, "axes")
    axes = range(4) if axes is None else [int(axis) % 4 for axis in axes]
    given = call.constant(1, "pads").reshape(2, -1)
    begin, end = (
        {**dict.fromkeys(range(4), 0), **dict(zip(axes, row, strict=True))} for row in given
    )
    if any(begin[axis] or end[axis] for axis in (0, 1)):
        raise Unsupported("only height and width can be padded")
    op = "pad" if zeros else "reflection_pad2d"
    return call.add(op, [x], pads=[begin[2], begin[3], end[2], end[3]])


@onnx("MaxPool")
def _max_pool(call: Call) -> Value:
    if len([name for name in call.node.output if name]) > 1:
        raise Unsupported("its indices output is not available")
    return _pool(call, "max_pool2d", _pool_shape(call))


@onnx("AveragePool")
def _avg_pool(call: Call) -> Value:
    kernel = _pool_shape(call)
    return _pool(
        call, "avg_pool2d", kernel, count_include_pad=call.attrs.get("count_include_pad", 0)
    )


@onnx("GlobalAveragePool")
def _global_avg_pool(call: Call) -> Value:
    x = call.value(0)
    return call.add("avg_pool2d", [x], kernel=list(x.shape[2:]))


@onnx("GlobalMaxPool")
def _global_max_pool(call: Call) -> Value:
    x = call.value(0)
    return call.add("max_pool2d", [x], kernel=list(x.shape[2:]))


def _pool_shape(call: Call) -> list[int]:
    shape = call.value(0).shape
    if len(shape) != 4:
        raise Unsupported(f"input {shape}; only 2-D pooling is available")
    return list(call.attrs["kernel_shape"])


def _pool(call: Call, op: str, kernel: list[int], **more: Any) -> Value:
    x = call.value(0)
    attrs = _window(call, x, kernel)
    if attrs.pop("dilations") != [1, 1]:
        raise Unsupported("dilations are not available")
    if call.attrs.get("ceil_mode", 0):
        attrs["pads"] = _ceil_pads(op, x, kernel, attrs)
    return call.add(op, [x], kernel=kernel, **attrs, **more)


def _ceil_pads(op: str, x: Value, kernel: list[int], attrs: dict[str, Any]) -> list[int]:
    """Return pads that make the flooring formula give the size of ceil_mode."""
    pads = list(attrs["pads"])
    for axis in (0, 1):
        size, stride = x.shape[2 + axis], attrs["strides"][axis]
        reach = size + pads[axis] + pads[2 + axis] - kernel[axis]
        last = -(-reach // stride) * stride
        # A window that would begin in the padding at the end is dropped.
        if last >= size + pads[axis]:
            continue
        if last > reach:
            if op != "max_pool2d":
                raise Unsupported("ceil_mode with windows over the edge is not available")
            pads[2 + axis] += last - reach
    return pads


def _window(call: Call, x: Value, kernel: list[int]) -> dict[str, list[int]]:
    """Return strides, pads and dilations, `auto_pad` made explicit."""
    strides = list(call.attrs.get("strides", [1, 1]))
    dilations = list(call.attrs.get("dilations", [1, 1]))
    pads = list(call.attrs.get("pads", [0, 0, 0, 0]))
    mode = call.attrs.get("auto_pad", "NOTSET")
    if mode == "VALID":
        pads = [0, 0, 0, 0]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        for axis in (0, 1):
            size, stride = x.shape[2 + axis], strides[axis]
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            small, large = total // 2, total - total // 2
            pads[axis], pads[2 + axis] = (small, large) if mode == "SAME_UPPER" else (large, small)
    elif mode != "NOTSET":
        raise Unsupported(f"auto_pad {mode!r} is not available")
    return {"strides": strides, "pads": pads, "dilations": dilations}


@onnx("MatMul")
def _matmul(call: Call) -> Value:
    x = call.value(0)
    if call.is_constant(0) or not call.is_constant(1):
        raise Unsupported("the second operand must be a constant and the first an activation")
    weight = call.constant(1, "weight")
    if weight.ndim != 2 or len(x.shape) not in (2, 3):
        raise Unsupported(f"{x.shape} by {weight.shape}; expected [..,K] of rank 2 or 3 by [K,N]")
    return call.add("linear", [x, call.new_constant("weight", weight.T)])


@onnx("Gemm")
def _gemm(call: Call) -> Value:
    x = call.value(0)
    if call.attrs.get("transA", 0):
        raise Unsupported("transA is not available")
    weight = call.constant(1, "weight").astype(np.float64)
    weight = weight if call.attrs.get("transB", 0) else weight.T
    inputs = [x, call.new_constant("weight", weight * call.attrs.get("alpha", 1.0))]
    bias = call.optional_constant(2, "bias")
    if bias is not None:
        if bias.ndim > 1 and math.prod(bias.shape[:-1]) != 1:
            raise Unsupported(f"bias of shape {bias.shape}; expected one number for each output")
        bias = bias.astype(np.float64).reshape(bias.shape[-1:]) * call.attrs.get("beta", 1.0)
        inputs.append(call.new_constant("bias", np.broadcast_to(bias, weight.shape[:1])))
    return call.add("linear", inputs)


@onnx("BatchNormalization")
def _batch_norm(call: Call) -> Value:
    if call.attrs.get("training_mode", 0):
        raise Unsupported("training mode; export the model in evaluation mode")
    for index, what in enumerate(("scale", "shift", "mean", "variance")):
        call.constant(1 + index, what)
    return call.add("batch_norm", call.values(), eps=call.attrs.get("epsilon", 1e-5))


@onnx("LayerNormalization")
def _layer_norm(call: Call) -> Value:
    x = call.value(0)
    if call.attrs.get("axis", -1) % len(x.shape) != len(x.shape) - 1 or len(x.shape) == 4:
        raise Unsupported("only the last axis of tokens [B,T,D] can be normalised")
    width = x.shape[-1]
    gamma = np.broadcast_to(call.constant(1, "scale"), (width,))
    shift = call.optional_constant(2, "shift")
    beta = np.broadcast_to(np.zeros(1) if shift is None else shift, (width,))
    inputs = [x, call.new_constant("gamma", gamma), call.new_constant("beta", beta)]
    return call.add("layer_norm", inputs, eps=call.attrs.get("epsilon", 1e-5))


@onnx("Softmax")
def _softmax(call: Call) -> Value:
    x = call.value(0)
    if call.attrs.get("axis", -1) % len(x.shape) != len(x.shape) - 1 or len(x.shape) == 4:
        raise Unsupported("only the last axis of tokens [B,T,D] is available")
    return call.add("softmax", [x])
