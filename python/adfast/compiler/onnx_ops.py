"""How each supported ONNX op becomes ops of the graph.

A handler takes a `Call` and returns the result, or the results. It raises `Unsupported` with the
reason in words that fit after "Op: ". Handlers keep to one meaning: what several ops share is left
to passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adfast.compiler.graph import Value
from adfast.compiler.importer import Call, Unsupported

Handler = Callable[[Call], Any]
_handlers: dict[str, Handler] = {}
FUNCTIONS: dict[str, Handler] = {}
# Evaluated when their inputs are constants, or when the shape alone decides.
_FOLDED = (
    "Constant",
    "ConstantOfShape",
    "Gather",
    "Range",
    "Shape",
    "Size",
    "Where",
    "Equal",
    "Tile",
)


def find(domain: str, op: str) -> Handler | None:
    """Find the handler of an op; None when there is none."""
    if domain == "adfast":
        return FUNCTIONS.get(op)
    return _handlers.get(op) if domain in ("", "ai.onnx") else None


def _onnx(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        _handlers.update(dict.fromkeys(names, handler))
        return handler

    return register


def _function(handler: Handler) -> Handler:
    FUNCTIONS["".join(part.title() for part in handler.__name__.strip("_").split("_"))] = handler
    return handler


# Shapes and copies


@_onnx("Identity", "Dropout")
def _identity(call: Call) -> Value:
    if len([name for name in call.node.output if name]) > 1:
        raise Unsupported("its mask output is not available")
    return call.add("identity", [call.value(0)])


@_onnx("Cast", "CastLike")
def _cast(call: Call) -> Value:
    if call.op == "Cast" and call.attrs["to"] != 1:
        raise Unsupported("activations are float32; a cast to another type is not available")
    return call.add("identity", [call.value(0)])


@_onnx("Shape")
def _shape(call: Call) -> list[np.ndarray]:
    shape = np.array(call.value(0).shape, np.int64)
    return [shape[call.attrs.get("start", 0) : call.attrs.get("end", len(shape))]]


@_onnx("Size")
def _size(call: Call) -> list[np.ndarray]:
    return [np.array(math.prod(call.value(0).shape), np.int64)]


@_onnx("Reshape")
def _reshape(call: Call) -> Value:
    x = call.value(0)
    wanted = [int(dim) for dim in call.constant(1, "shape")]
    if not call.attrs.get("allowzero", 0):
        wanted = [x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(wanted)]
    if wanted.count(-1) == 1:
        rest = math.prod(dim for dim in wanted if dim != -1)
        wanted[wanted.index(-1)] = math.prod(x.shape) // max(rest, 1)
    return call.shaped(x, wanted)


@_onnx("Flatten")
def _flatten(call: Call) -> Value:
    x = call.value(0)
    axis = call.attrs.get("axis", 1) % (len(x.shape) + 1)
    return call.shaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@_onnx("Squeeze")
def _squeeze(call: Call) -> Value:
    x = call.value(0)
    axes = _axes(call, [axis for axis, dim in enumerate(x.shape) if dim == 1])
    if any(x.shape[axis] != 1 for axis in axes):
        raise Unsupported(f"axes {axes} of shape {x.shape} are not all 1 wide")
    return call.shaped(x, [dim for axis, dim in enumerate(x.shape) if axis not in axes])


@_onnx("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    x = call.value(0)
    given = call.constant(1, "axes")
    axes = {int(axis) % (len(x.shape) + len(given)) for axis in given}
    rest = iter(x.shape)
    rank = len(x.shape) + len(given)
    return call.shaped(x, [1 if axis in axes else next(rest) for axis in range(rank)])


@_onnx("Expand")
def _expand(call: Call) -> Value:
    x = call.value(0)
    wanted = np.broadcast_shapes(x.shape, tuple(int(dim) for dim in call.constant(1, "shape")))
    if math.prod(wanted) != math.prod(x.shape):
        raise Unsupported(f"an activation of shape {x.shape} cannot be repeated to {wanted}")
    return call.shaped(x, wanted)


@_onnx("Transpose")
def _transpose(call: Call) -> Value:
    x = call.value(0)
    order = call.attrs.get("perm", list(range(len(x.shape)))[::-1])
    moved = [axis for axis in order if x.shape[axis] != 1]
    if moved == sorted(moved):
        return call.shaped(x, [x.shape[axis] for axis in order])
    return call.add("transpose", [x], order=order)


@_onnx("Concat")
def _concat(call: Call) -> Value:
    values = call.values()
    return call.add("concat", values, axis=call.attrs["axis"] % len(values[0].shape))


@_onnx("Split")
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


@_onnx("Slice")
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


def _axes(call: Call, default: Sequence[int]) -> list[int]:
    """Read axes from the second input or, before opset 18, an attribute; not negative, sorted."""
    rank = len(call.value(0).shape)
    given = call.attrs.get("axes")
    if given is None:
        array = call.optional_constant(1, "axes")
        given = default if array is None else array
    return sorted(int(axis) % rank for axis in given)


# Convolution, pooling, products


@_onnx("Conv")
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


@_onnx("ConvTranspose")
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


@_onnx("Pad")
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


@_onnx("MaxPool")
def _max_pool(call: Call) -> Value:
    if len([name for name in call.node.output if name]) > 1:
        raise Unsupported("its indices output is not available")
    return _pool(call, "max_pool2d", _pool_shape(call))


@_onnx("AveragePool")
def _avg_pool(call: Call) -> Value:
    kernel = _pool_shape(call)
    return _pool(
        call, "avg_pool2d", kernel, count_include_pad=call.attrs.get("count_include_pad", 0)
    )


@_onnx("GlobalAveragePool")
def _global_avg_pool(call: Call) -> Value:
    x = call.value(0)
    return call.add("avg_pool2d", [x], kernel=list(x.shape[2:]))


@_onnx("GlobalMaxPool")
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


@_onnx("MatMul")
def _matmul(call: Call) -> Value:
    x = call.value(0)
    if call.is_constant(0) or not call.is_constant(1):
        raise Unsupported("the second operand must be a constant and the first an activation")
    weight = call.constant(1, "weight")
    if weight.ndim != 2 or len(x.shape) not in (2, 3):
        raise Unsupported(f"{x.shape} by {weight.shape}; expected [..,K] of rank 2 or 3 by [K,N]")
    return call.add("linear", [x, call.new_constant("weight", weight.T)])


@_onnx("Gemm")
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


# Normalisation


@_onnx("BatchNormalization")
def _batch_norm(call: Call) -> Value:
    if call.attrs.get("training_mode", 0):
        raise Unsupported("training mode; export the model in evaluation mode")
    for index, what in enumerate(("scale", "shift", "mean", "variance")):
        call.constant(1 + index, what)
    return call.add("batch_norm", call.values(), eps=call.attrs.get("epsilon", 1e-5))


@_onnx("LayerNormalization")
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


@_onnx("Softmax")
def _softmax(call: Call) -> Value:
    x = call.value(0)
    if call.attrs.get("axis", -1) % len(x.shape) != len(x.shape) - 1 or len(x.shape) == 4:
        raise Unsupported("only the last axis of tokens [B,T,D] is available")
    return call.add("softmax", [x])


# Elementwise


@_onnx("Relu", "Sigmoid", "Tanh", "Sqrt", "Exp", "Abs", "Neg", "Erf")
def _unary(call: Call) -> Value:
    return call.add(call.op.lower(), [call.value(0)])


@_onnx("Gelu")
def _gelu(call: Call) -> Value:
    if call.attrs.get("approximate", "none") != "none":
        raise Unsupported("the tanh approximation is not available; export with approximate='none'")
    return call.add("gelu", [call.value(0)])


@_onnx("LeakyRelu")
def _leaky_relu(call: Call) -> Value:
    x, alpha = call.value(0), call.attrs.get("alpha", 0.01)
    if not 0 <= alpha <= 1:
        raise Unsupported(f"alpha is {alpha}, expected 0 to 1")
    scaled = call.add("mul", [x, call.new_constant("alpha", np.array(alpha))])
    return call.add("max", [x, scaled])


@_onnx("Clip")
def _clip(call: Call) -> Value:
    x = call.value(0)
    for index, op in ((1, "max"), (2, "min")):
        bound = call.optional_constant(index, "bounds")
        if bound is not None:
            x = call.add(op, [x, call.new_constant(op, bound)])
    return x


@_onnx("Pow")
def _pow(call: Call) -> Value:
    exponent = call.constant(1, "exponent")
    op = {2.0: "square", 0.5: "sqrt", 1.0: "identity"}.get(float(exponent.flat[0]))
    if op is None or exponent.size != 1:
        raise Unsupported(f"exponent {exponent.tolist()}; only 2, 1 and 0.5 are available")
    return call.add(op, [call.value(0)])


@_onnx("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")
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


# Reductions and resize


@_onnx("ReduceMean", "ReduceSum", "ReduceMax", "ReduceSumSquare", "ReduceL2")
def _reduce(call: Call) -> Value:
    x = call.value(0)
    if call.op in ("ReduceSumSquare", "ReduceL2"):
        x = call.add("square", [x])
    op = {"ReduceMean": "reduce_mean", "ReduceMax": "reduce_max"}.get(call.op, "reduce_sum")
    y = _reduced(call, op, x)
    return call.add("sqrt", [y]) if call.op == "ReduceL2" else y


def _reduced(call: Call, op: str, x: Value) -> Value:
    axes = _axes(call, () if call.attrs.get("noop_with_empty_axes", 0) else range(len(x.shape)))
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


@_onnx("DepthToSpace")
def _depth_to_space(call: Call) -> Value:
    mode = call.attrs.get("mode", "DCR")
    if mode != "DCR":
        raise Unsupported(
            f"mode {mode!r}; only DCR is available: let the layer before give the channels in the "
            "order row, column, channel"
        )
    return call.add("depth_to_space", [call.value(0)], block=call.attrs["blocksize"])


@_onnx("Resize")
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


# The functions of the domain adfast. Their bodies, in standard ops, are written by adfast.export.


@_function
def _token_attention(call: Call) -> Value:
    return call.add("token_attention", call.values(), scale=call.attrs["scale"])


@_function
def _attention(call: Call) -> Value:
    heads, scale = call.attrs.get("heads", 1), call.attrs["scale"]
    return call.add("attention", call.values(), heads=heads, scale=scale)


@_function
def _window_gather(call: Call) -> Value:
    index = call.run.graph.index(f"{call.name}.index", call.constant(1, "index"))
    return call.add("window_gather", [call.value(0), index])


@_function
def _projector_attention(call: Call) -> Value:
    return call.add("query_projector_attention", call.values(), scale=call.attrs["scale"])


@_function
def _score_map(call: Call) -> list[Value]:
    return call.add_all("score_map", call.values())


@_function
def _fuse_maps(call: Call) -> Value:
    attrs = {key: call.attrs[key] for key in ("mode", "height", "width")}
    return call.add("fuse_maps", call.values(), **attrs)


@_function
def _gaussian_blur(call: Call) -> Value:
    border = call.attrs.get("border", "reflect")
    if border != "reflect":
        raise Unsupported(f"border {border!r}; only 'reflect' is available")
    return call.add("gaussian_blur", call.values())


@_function
def _halo_attention(call: Call) -> Value:
    attrs = {key: call.attrs[key] for key in ("block", "halo", "heads", "scale")}
    legacy = call.attrs.get("legacy_mask", 0)
    return call.add("halo_attention", call.values(), legacy_mask=legacy, **attrs)


@_function
def _gms_map(call: Call) -> Value:
    return call.add("gms_map", call.values(), c=call.attrs["c"])


@_function
def _calibrate_map(call: Call) -> Value:
    call.constant(1, "mean map")
    return call.add("calibrate_map", call.values(), mode=call.attrs["mode"])


SUPPORTED = {*_handlers, *_FOLDED, *(f"adfast.{name}" for name in FUNCTIONS)}
