"""Pieces of detectors: the frame, tokens and projectors, windows, scores and maps."""

from __future__ import annotations

import math

from adfast.compiler.ops.spec import Shape, define, expect, expect_map, expect_shape

_SCORED = "map1 mse1 cos1 map2 mse2 cos2 map3 mse3 cos3"


def _frame(inputs, attrs):
    (rh, rw), (ch, cw) = attrs["resize"], attrs["crop"]
    expect(
        1 <= ch <= rh and 1 <= cw <= rw,
        f"frame: crop {ch}x{cw} does not fit into the resized image {rh}x{rw}",
    )
    return [(1, 3, ch, cw)]


# The image: resized, cropped, and value * scale + bias per channel on values 0..255.
define(
    "frame", "", _frame, resize="i[2]", crop="i[2]", antialias=("i", 1), scale="f[3]", bias="f[3]"
)


def _window_gather(inputs, attrs):
    x, index = inputs
    expect(
        len(x.shape) == 3 and x.shape[0] == 1 and len(index.shape) == 2 and min(index.shape) > 0,
        f"window_gather: x {x.shape}, index {index.shape}; expected [1,M,D] and [W,t]",
    )
    low, high = int(index.array.min()), int(index.array.max())
    expect(
        0 <= low and high < x.shape[1],
        f"window_gather: index holds {low} to {high}, expected 0 to {x.shape[1] - 1}",
    )
    return [(*index.shape, x.shape[2])]


define("window_gather", "x index:index", _window_gather, mixed=True)


def _token_attention(inputs, attrs):
    x, weight, bias = inputs
    channels = expect_map("token_attention", "x", x)[1]
    expect(
        len(weight.shape) == 2 and weight.shape[1] == channels,
        f"token_attention: weight has shape {weight.shape}, expected [g,{channels}]",
    )
    expect_shape("token_attention", "bias", bias, weight.shape[:1])
    return [(1, weight.shape[0], channels)]


define("token_attention", "x weight:const bias:const?", _token_attention, scale="f")


def _projector(op, inputs):
    x, residual, key, key_bias, value = inputs
    shape = expect_map(op, "x", x)
    expect_shape(op, "residual", residual, shape)
    tokens = key.shape[1] if len(key.shape) == 3 else 0
    expect_shape(op, "key", key, (1, tokens, shape[1]))
    expect_shape(op, "value", value, (1, tokens, shape[1]))
    expect_shape(op, "key_bias", key_bias, (1, tokens, 1))
    return shape


def _scores(shape: Shape) -> list[Shape]:
    return [(1, 1, *shape[2:]), (1,), (1,)]


define(
    "projector_attention",
    "x residual key key_bias? value",
    lambda inputs, attrs: [_projector("projector_attention", inputs)],
    scale="f",
)
define(
    "projector_score_map",
    "x residual key key_bias? value",
    lambda inputs, attrs: _scores(_projector("projector_score_map", inputs)),
    scale="f",
)


def _query_projector(inputs, attrs):
    x, residual, weight, bias, key, value = inputs
    op = "query_projector_attention"
    shape = expect_map(op, "query_features", x)
    expect_shape(op, "features", residual, shape)
    width = weight.shape[0]
    tokens = key.shape[1] if len(key.shape) == 3 else 0
    expect_shape(op, "query_weight", weight, (width, shape[1]))
    expect_shape(op, "query_bias", bias, (width,))
    expect_shape(op, "key", key, (1, tokens, width))
    expect_shape(op, "value", value, (1, tokens, shape[1]))
    return [shape]


define(
    "query_projector_attention",
    "query_features features query_weight:const query_bias:const key value",
    _query_projector,
    engine=False,
    scale="f",
)


def _score_map(inputs, attrs):
    a, b = inputs
    shape = expect_map("score_map", "a", a)
    expect_shape("score_map", "b", b, shape)
    return _scores(shape)


define("score_map", "a b", _score_map)


def _fuse_maps(inputs, attrs):
    for level in range(3):
        score_map, mse, cos = inputs[3 * level : 3 * level + 3]
        shape = expect_map("fuse_maps", f"map{level + 1}", score_map)
        expect_shape("fuse_maps", f"map{level + 1}", score_map, (1, 1, *shape[2:]))
        expect_shape("fuse_maps", f"mse{level + 1}", mse, (1,))
        expect_shape("fuse_maps", f"cos{level + 1}", cos, (1,))
    expect_shape("fuse_maps", "alpha_scale", inputs[9], (3,))
    expect(1 <= attrs["mode"] <= 6, f"fuse_maps: mode is {attrs['mode']}, expected 1 to 6")
    expect(
        attrs["height"] >= 1 and attrs["width"] >= 1,
        f"fuse_maps: the map would have {attrs['height']}x{attrs['width']} pixels",
    )
    return [(1, 1, attrs["height"], attrs["width"])]


define("fuse_maps", f"{_SCORED} alpha_scale:const", _fuse_maps, mode="i", height="i", width="i")


def _gaussian_blur(inputs, attrs):
    x, kernel = inputs
    shape = expect_map("gaussian_blur", "x", x)
    expect_shape("gaussian_blur", "x", x, (1, 1, *shape[2:]))
    size = math.prod(kernel.shape)
    expect(
        len(kernel.shape) == 1 and size % 2 == 1,
        f"gaussian_blur: kernel has shape {kernel.shape}, expected an odd number of weights",
    )
    expect(
        size // 2 < min(shape[2:]),
        f"gaussian_blur: a kernel of {size} reflects past the edge of a {shape[2]}x{shape[3]} map; "
        "use a smaller sigma",
    )
    return [shape]


define("gaussian_blur", "x kernel:const", _gaussian_blur)


def _gms_map(inputs, attrs):
    a, b = inputs
    shape = expect_map("gms_map", "a", a)
    expect_shape("gms_map", "b", b, shape)
    expect(attrs["c"] > 0, f"gms_map: c is {attrs['c']}, expected a positive number")
    return [(1, 1, *shape[2:])]


define("gms_map", "a b", _gms_map, c="f")


def _calibrate_map(inputs, attrs):
    x, mean = inputs
    shape = expect_map("calibrate_map", "x", x)
    expect_shape("calibrate_map", "x", x, (1, 1, *shape[2:]))
    expect_shape("calibrate_map", "mean", mean, shape)
    expect(
        attrs["mode"] in ("square", "absolute"),
        f"calibrate_map: mode is {attrs['mode']!r}, expected 'square' or 'absolute'",
    )
    return [shape]


define("calibrate_map", "x mean:const", _calibrate_map, mode="s")
