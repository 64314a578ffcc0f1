"""The numpy reference itself, against PyTorch: what both engine and compiler are measured by."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES

from adfast.compiler import reference
from adfast.compiler.ops import LEVELS

torch = pytest.importorskip("torch")
F = torch.nn.functional

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


def conv2d(x, weight, bias, residual, pads, activation, strides=(1, 1), dilations=(1, 1), groups=1):
    top, left, bottom, right = pads
    x = F.pad(x, (left, right, top, bottom))
    y = F.conv2d(x, weight, bias, tuple(strides), 0, tuple(dilations), groups)
    return ACTIVATIONS[activation](y if residual is None else y + residual)


def max_pool2d(x, kernel, strides, pads):
    top, left, bottom, right = pads
    x = F.pad(x, (left, right, top, bottom), value=-torch.inf)
    return F.max_pool2d(x, kernel, strides)


def avg_pool2d(x, kernel, strides, pads, count_include_pad):
    top, left, bottom, right = pads
    area = kernel[0] * kernel[1]

    def total(values):
        return F.avg_pool2d(F.pad(values, (left, right, top, bottom)), kernel, strides) * area

    return total(x) / (area if count_include_pad else total(torch.ones_like(x)))


def linear(x, weight, bias, residual, activation):
    y = F.linear(x, weight, bias)
    return ACTIVATIONS[activation](y if residual is None else y + residual)


def attention(q, k, v, heads, scale):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)


def window_gather(x, index):
    rows = index.long().flatten()
    return x[0].index_select(0, rows).unflatten(0, index.shape)


def gms_map(a, b, c):
    def magnitude(x):
        across = torch.tensor([[-1.0, 0, 1]] * 3, dtype=x.dtype) / 3
        filters = torch.stack([across, across.T])[:, None]
        x = F.pad(x, (1, 1, 1, 1), mode="replicate").transpose(0, 1)
        return F.conv2d(x, filters).square().sum(1).sqrt()

    ga, gb = magnitude(a), magnitude(b)
    similarity = (2 * ga * gb + c) / (ga.square() + gb.square() + c)
    return 1 - similarity.mean(0)[None, None]


def calibrate_map(x, mean, mode):
    loss = F.mse_loss if mode == "square" else F.l1_loss
    return loss(x, mean, reduction="none")


def depth_to_space(x, block):
    # pixel_shuffle wants the channel first.
    _, channels, height, width = x.shape
    x = x.reshape(1, block * block, -1, height, width).transpose(1, 2)
    return F.pixel_shuffle(x.reshape(1, channels, height, width), block)


def reduce_mean(x, axes, keepdims):
    return x.mean(tuple(axes), bool(keepdims))


def resize_bilinear(x, height, width, align_corners):
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=bool(align_corners))


def gaussian_blur(x, kernel):
    half = kernel.numel() // 2
    x = F.pad(x, (half,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None])


def layer_norm(x, gamma, beta, residual, eps):
    y = F.layer_norm(x, gamma.shape, gamma, beta, eps)
    return y if residual is None else y + residual


def score_map(a, b):
    square = (a - b).square().sum(1, keepdim=True) / (a.shape[2] * a.shape[3])
    cosine = F.cosine_similarity(a.flatten(), b.flatten(), dim=0)
    return square / 2, square.sum().reshape(1), (1 - cosine).reshape(1)


def resize_nearest(x, height, width):
    return F.interpolate(x, (height, width), mode="nearest")


def reflection_pad2d(x, pads):
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), mode="reflect")


def halo_attention(q, k, v, rows, columns, block, halo, heads, scale, legacy_mask):
    """Query by query of a block, all blocks and heads at once."""
    side = block + 2 * halo

    def windows(x):  # [heads, blocks, channels, keys]
        x = F.unfold(F.pad(x, (halo,) * 4), side, stride=block)
        return x.reshape(heads, -1, side * side, x.shape[2]).permute(0, 3, 1, 2)

    keys, values = windows(k), windows(v)
    inside = F.unfold(F.pad(torch.ones_like(q[:, :1]), (halo,) * 4), side, stride=block)[0].T > 0
    queries = F.unfold(q, block, stride=block)
    queries = queries.reshape(heads, -1, block * block, queries.shape[2]).permute(0, 3, 2, 1)
    read = []
    for i in range(block * block):
        down = torch.arange(side) - i // block + side - 1
        across = torch.arange(side) - i % block + side - 1
        position = (rows[down][:, None] + columns[across][None]).flatten(0, 1).T
        logits = scale * (queries[:, :, i, None] @ (keys + position))[:, :, 0]
        if legacy_mask:
            logits[:, inside] = torch.finfo(torch.float32).min
        else:
            logits[:, ~inside] = -torch.inf
        read.append((values * logits.softmax(-1)[:, :, None]).sum(-1))
    read = torch.stack(read, -1).permute(0, 2, 3, 1).reshape(1, -1, queries.shape[1])
    return F.fold(read, q.shape[2:], block, stride=block)


TWINS = {
    "resize_nearest": resize_nearest,
    "reflection_pad2d": reflection_pad2d,
    "halo_attention": halo_attention,
    "conv2d": conv2d,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "linear": linear,
    "attention": attention,
    "window_gather": window_gather,
    "gms_map": gms_map,
    "calibrate_map": calibrate_map,
    "depth_to_space": depth_to_space,
    "reduce_mean": reduce_mean,
    "resize_bilinear": resize_bilinear,
    "gaussian_blur": gaussian_blur,
    "layer_norm": layer_norm,
    "score_map": score_map,
    "softmax": lambda x: torch.softmax(x, -1),
    "gelu": F.gelu,
    "silu": F.silu,
}


@pytest.mark.parametrize("case", [case for case in CASES if case.op in TWINS], ids=str)
def test_reference(case):
    arrays = case.arrays()
    graph, inputs = case.graph(arrays)
    node = graph.nodes[0]
    tensors = [None if array is None else torch.from_numpy(array).double() for array in arrays]
    attrs = {key: value for key, value in node.attrs.items() if key not in LEVELS}
    want = TWINS[case.op](*tensors, **attrs)
    got = reference.run(graph, inputs)
    for index, expected in enumerate(want if isinstance(want, tuple) else (want,)):
        np.testing.assert_allclose(got[f"out{index}"], expected.numpy(), rtol=1e-6, atol=1e-8)
