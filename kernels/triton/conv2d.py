"""Convolution and product on tensor cores as one implicit product, its epilogue fused.

The windows of the map are never written: a program walks over taps and channels, fetching for each
tile of outputs the pixels that a tap sees (Chetlur et al., "cuDNN: Efficient Primitives for Deep
Learning", 2014, section 3). At batch 1 a deep map has few pixels, and a library's tiles of 128 by
128 occupy a few multiprocessors only: there are small tiles here, and the depth can be shared among
programs (`splits`), whose parts a second step adds up, always in the same order.

y = activation(x * weight + bias + residual)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import (
    TYPES,
    Variant,
    cdiv,
    check_alike,
    check_launch,
    check_shape,
    launch,
    tl,
    triton,
    working_dtype,
)

OP = "conv2d"
# Numbers as in kernels/cuda/kernels.h (Unary).
ACTIVATIONS = {"none": 0, "relu": 1, "sigmoid": 2, "silu": 3, "gelu": 4}


def _sizes(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Return height and width of the result."""
    top, left, bottom, right = padding
    sizes = (
        (x.shape[1] + top + bottom - dilation[0] * (weight.shape[1] - 1) - 1) // stride[0] + 1,
        (x.shape[2] + left + right - dilation[1] * (weight.shape[2] - 1) - 1) // stride[1] + 1,
    )
    if min(sizes) < 1:
        raise ValueError(
            f"[{OP}] the window of {list(weight.shape[1:3])} does not fit into a map of "
            f"{list(x.shape[1:3])} with padding {list(padding)}"
        )
    return sizes


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str
) -> None:
    check_shape(OP, "x", x, (None, None, None, None))
    check_shape(OP, "weight", weight, (None, None, None, x.shape[3]))
    if bias is not None:
        check_shape(OP, "bias", bias, (weight.shape[0],))
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"[{OP}] activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}"
        )
    check_alike(OP, x, weight=weight, residual=residual)


def _finish(y: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    if bias is not None:
        y = y + bias.to(y.dtype)
    if residual is not None:
        y = y + residual.to(y.dtype)
    return y if activation == "none" else getattr(F, activation)(y)


def conv2d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    activation: str = "none",
) -> Tensor:
    """Compute what `conv2d` computes, in plain PyTorch on any device."""
    _check(x, weight, bias, residual, activation)
    _sizes(x, weight, stride, padding, dilation)
    work = working_dtype(x, weight)
    top, left, bottom, right = padding
    planes = F.pad(x.to(work).permute(0, 3, 1, 2), (left, right, top, bottom))
    kernel = weight.to(work).permute(0, 3, 1, 2)
    y = F.conv2d(planes, kernel, stride=stride, dilation=dilation).permute(0, 2, 3, 1)
    return _finish(y, bias, residual, activation).to(x.dtype).contiguous()


@triton.jit
def activate(v, activation):
    """Apply one of ACTIVATIONS; a NaN stays one."""
    if activation == 1:
        v = tl.where(v < 0, 0.0, v)
    elif activation == 2:
        v = 1.0 / (1.0 + tl.exp(-v))
    elif activation == 3:
        # -infinity times 0 would be NaN; below -104 the sigmoid is 0 anyway.
        v = tl.where(v < -110.0, -110.0, v) / (1.0 + tl.exp(-v))
    elif activation == 4:
        # No float below -20 has a tail above 0.
        v = tl.where(v < -20.0, -20.0, v)
        v = v * (0.5 + 0.5 * tl.erf(v * 0.7071067811865476))
    return v


@triton.jit
def conv2d_kernel(
    x,
    weight,
    bias,
    residual,
    y,
    parts,
    rows,
    height,
    width,
    channels,
    out_height,
    out_width,
    out_channels,
    kernel_width,
    taps,
    stride_y,
    stride_x,
    top,
    left,
    dilation_y,
    dilation_x,
    has_residual,
    activation,
    splits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (tile of output pixels, tile of output channels, share of the depth).

    rows: output pixels of all images. With one share the result goes to y; with several the sums
    go to parts, [splits, rows, out_channels] in float32, and bias, residual and activation are left
    to whoever adds them up. residual is any pointer where has_residual is 0.
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    share = tl.program_id(2)
    line = row // out_width
    image = line // out_height
    first_y = (line - image * out_height) * stride_y - top
    first_x = (row - line * out_width) * stride_x - left
    # Beyond the last row nothing is inside.
    first_y = tl.where(row < rows, first_y, -(1 << 24))
    # Offsets are of 32 bits, which the launcher sees to; the parts alone may be larger.
    first = image * height * width
    # The last tile may read the last channel's weights several times; it writes them once.
    filters = tl.minimum(column, out_channels - 1) * taps * channels
    chunks = tl.cdiv(channels, BLOCK_K)
    steps = taps * chunks
    per_share = tl.cdiv(steps, splits)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(share * per_share, tl.minimum(steps, (share + 1) * per_share)):
        tap = step // chunks
        channel = (step - tap * chunks) * BLOCK_K + tl.arange(0, BLOCK_K)
        tap_y = tap // kernel_width
        at_y = first_y + tap_y * dilation_y
        at_x = first_x + (tap - tap_y * kernel_width) * dilation_x
        inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        there = (channel < channels)[None, :]
        pixels = tl.load(
            x + ((first + at_y * width + at_x) * channels)[:, None] + channel[None, :],
            mask=inside[:, None] & there,
            other=0.0,
        )
        kernel = tl.load(
            weight + filters[:, None] + (tap * channels + channel)[None, :], mask=there, other=0.0
        )
        acc = tl.dot(pixels, tl.trans(kernel), acc, input_precision=PRECISION)
    at = row[:, None] * out_channels + column[None, :]
    exists = (row < rows)[:, None] & (column < out_channels)[None, :]
    if splits > 1:
        parts += share.to(tl.int64) * rows * out_channels
        tl.store(parts + at, acc, mask=exists)
    else:
        acc += tl.load(bias + column, mask=column < out_channels, other=0.0)[None, :]
        if has_residual != 0:
            acc += tl.load(residual + at, mask=exists, other=0.0).to(tl.float32)
        acc = activate(acc, activation)
        tl.store(y + at, acc.to(y.dtype.element_ty), mask=exists)


# Output pixels, output channels and depth of a tile, warps, stages. The shared memory of every card
# from Ampere on holds them. Which one suits which sizes: csrc/backends/cuda/fused_conv.cpp.
TILES = ((128, 128, 64, 8, 3), (64, 64, 128, 4, 3), (32, 64, 64, 4, 4), (32, 32, 64, 4, 4))


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    activation: str = "none",
    tile: tuple[int, int, int, int, int] = TILES[3],
    splits: int = 1,
) -> Tensor:
    """activation(x * weight + bias + residual), without groups.

    Args:
        x: [B, height, width, C]; float32, float16 or bfloat16.
        weight: [O, kernel height, kernel width, C] in the dtype of x.
        bias: [O], float32, or None.
        residual: [B, out height, out width, O] in the dtype of x, or None.
        stride: along y and x.
        padding: zeros at the top, left, bottom and right.
        dilation: along y and x.
        activation: "none", "relu", "sigmoid", "silu" or "gelu" (by the error function).
        tile: one of TILES, or alike.
        splits: programs that share the depth, whose float32 parts are added up in their order.

    Returns:
        [B, out height, out width, O] in the dtype of x.

    Raises:
        ValueError: shapes, activation or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _check(x, weight, bias, residual, activation)
    out_height, out_width = _sizes(x, weight, stride, padding, dilation)
    check_launch(OP, x, weight=weight, bias=bias, residual=residual)
    out_channels, kernel_height, kernel_width, channels = weight.shape
    x, weight = x.contiguous(), weight.contiguous()
    y = torch.empty((len(x), out_height, out_width, out_channels), dtype=x.dtype, device=x.device)
    if residual is not None:
        check_shape(OP, "residual", residual, tuple(y.shape))
        residual = residual.contiguous()
    shift = torch.zeros(out_channels, device=x.device) if bias is None else bias.float()
    rows = y[..., 0].numel()
    parts = torch.empty((splits if splits > 1 else 0, rows, out_channels), device=x.device)
    block_m, block_n, block_k, warps, stages = tile
    grid = (cdiv(rows, block_m), cdiv(out_channels, block_n), splits)
    launch(
        OP, conv2d_kernel, grid,
        x, weight, shift, y if residual is None else residual, y, parts if splits > 1 else shift,
        rows, *x.shape[1:], out_height, out_width, out_channels, kernel_width,
        kernel_height * kernel_width, *stride, *padding[:2], *dilation,
        int(residual is not None), ACTIVATIONS[activation], splits,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, PRECISION="ieee",
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    if splits > 1:
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        y = _finish(total.view(y.shape), bias, residual, activation).to(x.dtype)
    return y


def _variant(dtype: torch.dtype, tile: tuple[int, int, int, int, int]) -> Variant:
    block_m, block_n, block_k, warps, stages = tile
    name = TYPES[dtype]
    numbers = (
        "rows", "height", "width", "channels", "out_height", "out_width", "out_channels",
        "kernel_width", "taps", "stride_y", "stride_x", "top", "left", "dilation_y", "dilation_x",
        "has_residual", "activation", "splits",
    )  # fmt: skip
    pointers = ("x", "weight", "bias", "residual", "y", "parts")
    return Variant(
        name=f"conv2d_{name}_m{block_m}n{block_n}",
        kernel=conv2d_kernel,
        types=dict.fromkeys(("x", "weight", "residual", "y"), f"*{name}")
        | dict.fromkeys(("bias", "parts"), "*fp32")
        | dict.fromkeys(numbers, "i32"),
        constexprs={"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k}
        | {"PRECISION": "ieee"},
        # Fetched are runs of whole sixteens of channels.
        aligned=(*pointers, "channels"),
        grid=("ceil(rows / BLOCK_M)", "ceil(out_channels / BLOCK_N)", "splits"),
        num_warps=warps,
        num_stages=stages,
        notes="activation: a number of Unary in kernels/cuda/kernels.h, up to gelu.",
    )


VARIANTS = [_variant(dtype, tile) for dtype in (torch.float16, torch.bfloat16) for tile in TILES]
