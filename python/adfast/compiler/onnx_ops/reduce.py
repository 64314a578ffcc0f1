"""ONNX ops that take means, sums and maxima over axes, or resize."""

from __future__ import annotations

import math

from adfast.compiler.graph import Value
from adfast.compiler.importer import Call, Unsupported
from adfast.compiler.onnx_ops.registry import onnx
from adfast.compiler.onnx_ops.shape import axes_of


@onnx("ReduceMean", "ReduceSum", "ReduceMax", "ReduceSumSquare", "ReduceL2")
def _reduce(call: Call) -> Value:
    x = call.value(0)
    if call.op in ("ReduceSumSquare", "ReduceL2"):
        x = call.add("square", [x])
    op = {"ReduceMean": "reduce_mean", "ReduceMax": "reduce_max"}.get(call.op, "reduce_sum")
    y = _reduced(call, op, x)
    return call.add("sqrt", [y]) if call.op == "ReduceL2" else y


def _reduced(call: Call, op: str, x: Value) -> Value:
    axes = axes_of(call, () if call.attrs.get("noop_with_empty_axes", 0) else range(len(x.shape)))
    keep = bool(call.attrs.get("keepdims", 1))
    result = [
        1 if axis in axes else dim for axis, dim in enumerate(x.shape) if keep or axis not in axes
    ]
    if len(x.shape) == 4 and x.shape[0] == 1:
        over = {axis for axis in axes if x.shape[axis] > 1}
        if over == {1}:
            return call.shaped(call.add(op, [x], axes=[1], keepdims=1), result)
        if over <= {2, 3} and x.shape[1] == 1 and {2, 3} <= set(axes):
            return call.shaped(call.add(op, [x], axes=[1, 2, 3], keepdims=0), result)
        if over == {2, 3} and op != "reduce_sum":
            pool = "avg_pool2d" if op == "reduce_mean" else "max_pool2d"
            return call.shaped(call.add(pool, [x], kernel=list(x.shape[2:])), result)
        if {1, 2, 3} <= set(axes) and op in ("reduce_max", "reduce_mean"):
            one = call.add(op, [x], axes=[1], keepdims=1)
            return call.shaped(call.add(op, [one], axes=[1, 2, 3], keepdims=0), result)
    if len(x.shape) == 3 and axes == [1]:
        return call.shaped(call.add(op, [x], axes=[1], keepdims=0), result)
    raise Unsupported(
        f"axes {axes} of shape {x.shape}; available are the channels of [B,C,H,W], its height "
        "and width (mean, max), and all of them, and the tokens of [B,t,D]"
    )


@onnx("DepthToSpace")
def _depth_to_space(call: Call) -> Value:
    mode = call.attrs.get("mode", "DCR")
    if mode != "DCR":
        raise Unsupported(
            f"mode {mode!r}; only DCR is available: let the layer before give the channels in the "
            "order row, column, channel"
        )
    return call.add("depth_to_space", [call.value(0)], block=call.attrs["blocksize"])


@onnx("Resize")
def _resize(call: Call) -> Value:
    x = call.value(0)
    mode = call.attrs.get("mode", "nearest")
    if mode not in ("linear", "nearest") or len(x.shape) != 4:
        raise Unsupported(
            f"mode {mode!r} of shape {x.shape}; only bilinear and nearest resizing of "
            "[B,C,H,W] (modes 'linear', 'nearest') are available"
        )
    sizes = call.optional_constant(3, "sizes")
    if sizes is None:
        scales = call.constant(2, "scales")
        exact = [dim * float(scale) for dim, scale in zip(x.shape, scales, strict=True)]
        sizes = [math.floor(size + 1e-4) for size in exact]
        if any(abs(size - given) > 1e-3 for size, given in zip(sizes, exact, strict=True)):
            raise Unsupported(f"scales {scales.tolist()} of {x.shape} do not give whole sizes")
    sizes = [int(size) for size in sizes]
    if call.attrs.get("axes") is not None:
        axes = [axis % 4 for axis in call.attrs["axes"]]
        sizes = [
            sizes[axes.index(axis)] if axis in axes else dim for axis, dim in enumerate(x.shape)
        ]
    if tuple(sizes[:2]) != x.shape[:2]:
        raise Unsupported(f"{x.shape} to {sizes}; only height and width can be resized")
    height, width = sizes[2:]
    if mode == "nearest":
        places = call.attrs.get("coordinate_transformation_mode", "half_pixel")
        rounding = call.attrs.get("nearest_mode", "round_prefer_floor")
        if (places, rounding) != ("asymmetric", "floor"):
            raise Unsupported(
                f"coordinate_transformation_mode {places!r} with nearest_mode {rounding!r}; "
                "only 'asymmetric' with 'floor' is available for nearest"
            )
        return call.add("resize_nearest", [x], height=height, width=width)
    if call.attrs.get("antialias", 0) and (height < x.shape[2] or width < x.shape[3]):
        raise Unsupported("antialias is not available inside the network")
    mode = call.attrs.get("coordinate_transformation_mode", "half_pixel")
    half_pixel = mode == "half_pixel" or (mode == "pytorch_half_pixel" and min(height, width) > 1)
    if not half_pixel and mode != "align_corners":
        raise Unsupported(
            f"coordinate_transformation_mode {mode!r}; use half_pixel or align_corners"
        )
    return call.add(
        "resize_bilinear", [x], height=height, width=width, align_corners=int(not half_pixel)
    )
