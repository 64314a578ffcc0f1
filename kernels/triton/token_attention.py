"""Tokens as weighted means of pixels (GTrans eq. 1 and 3).

out[g] = sum_p softmax_p(scale * x[p] . weight[g]) x[p], an online softmax over the pixels.

A program has a span of the pixels and a tile of the channels; it computes the logits of its pixels
itself, from all channels, which costs less than a pass through memory: where a network has many
channels it has few pixels. Spans are combined afterwards, as in Dao et al., "Flash-Decoding"
(2023), as one program alone would leave the device idle.

A bias per token adds the same to the logits of all pixels and cancels in the softmax: none is read.
"""

import torch
from torch import Tensor

from .common import (
    LOG2_E,
    TYPES,
    TooLarge,
    Variant,
    cdiv,
    check_launch,
    check_positive,
    check_shape,
    launch,
    padded,
    tl,
    triton,
    working_dtype,
)

OP = "token_attention"
SPAN = 128  # pixels of a program, at least
SPLITS = 64  # programs over the pixels, at most
MOST_GROUPS = 64


def _check(x: Tensor, weight: Tensor, scale: float) -> None:
    check_shape(OP, "x", x, (None, None, None))
    check_shape(OP, "weight", weight, (None, x.shape[2]))
    check_positive(OP, "scale", scale)


def token_attention_reference(x: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Compute what `token_attention` computes, in plain PyTorch on any device."""
    _check(x, weight, scale)
    work = working_dtype(x, weight)
    wide = x.to(work)
    logits = torch.matmul(weight.to(work), wide.transpose(1, 2))
    return torch.matmul((scale * logits).softmax(dim=-1), wide).to(x.dtype)


@triton.jit
def load_tile(pointer, rows, columns, row_end, column_end, step):
    """[rows, columns] of a matrix whose rows lie `step` apart; zeros beyond its ends."""
    there = (rows < row_end)[:, None] & (columns < column_end)[None, :]
    return tl.load(pointer + rows[:, None] * step + columns[None, :], mask=there, other=0.0)


@triton.jit
def token_attention_kernel(
    x,
    weight,
    most,
    total,
    partial,
    pixels,
    channels,
    groups,
    span,
    splits,
    scale_log2,
    GROUPS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (span of pixels, tile of channels, image).

    Writes its largest logit and the sum of its weights, [image][split][group], and the weighted sum
    of its pixels, [image][split][group][channel], all float32.
    """
    split = tl.program_id(0)
    tile = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    x += image * pixels * channels
    group = tl.arange(0, GROUPS)
    mine = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    end = tl.minimum((split + 1) * span, pixels)
    largest = tl.full((GROUPS,), -float("inf"), tl.float32)
    weights_sum = tl.zeros((GROUPS,), tl.float32)
    acc = tl.zeros((GROUPS, BLOCK_C), tl.float32)
    for start in range(split * span, end, BLOCK_P):
        pixel = start + tl.arange(0, BLOCK_P)
        logits = tl.zeros((GROUPS, BLOCK_P), tl.float32)
        for first in range(0, channels, BLOCK_C):
            channel = first + tl.arange(0, BLOCK_C)
            features = load_tile(x, pixel, channel, end, channels, channels)
            ask = load_tile(weight, group, channel, groups, channels, channels)
            logits = tl.dot(
                ask.to(features.dtype), tl.trans(features), logits, input_precision=PRECISION
            )
        logits = tl.where((pixel < end)[None, :], logits * scale_log2, -float("inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits - larger[:, None])
        shrink = tl.exp2(largest - larger)
        weights_sum = weights_sum * shrink + tl.sum(weights, 1)
        values = load_tile(x, pixel, mine, end, channels, channels)
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(values.dtype), values, acc, input_precision=PRECISION)
        largest = larger
    row = (image * splits + split) * groups
    if tile == 0:
        tl.store(most + row + group, largest, mask=group < groups)
        tl.store(total + row + group, weights_sum, mask=group < groups)
    there = (group < groups)[:, None] & (mine < channels)[None, :]
    tl.store(partial + (row + group)[:, None] * channels + mine[None, :], acc, mask=there)


@triton.jit
def token_attention_combine_kernel(
    most,
    total,
    partial,
    out,
    channels,
    groups,
    splits,
    SPLITS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (tile of channels, group, image): one softmax of what the spans wrote."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    group = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    split = tl.arange(0, SPLITS)
    row = (image * splits + split) * groups + group
    largest = tl.load(most + row, mask=split < splits, other=-float("inf"))
    share = tl.exp2(largest - tl.max(largest, 0))
    weights_sum = tl.sum(share * tl.load(total + row, mask=split < splits, other=0.0), 0)
    there = (split < splits)[:, None] & (channel < channels)[None, :]
    sums = tl.load(partial + row[:, None] * channels + channel[None, :], mask=there, other=0.0)
    mean = tl.sum(sums * share[:, None], 0) / weights_sum
    place = (image * groups + group) * channels + channel
    tl.store(out + place, mean.to(out.dtype.element_ty), mask=channel < channels)


def spans(pixels: int, block: int) -> tuple[int, int]:
    """Pixels of a program, a multiple of its tile of `block`, and how many programs that takes."""
    splits = min(SPLITS, cdiv(pixels, SPAN))
    span = cdiv(cdiv(pixels, splits), block) * block
    return span, cdiv(pixels, span)


def tiling(dtype: torch.dtype) -> dict[str, int]:
    """Choose tiles: 64 pixels by 64 channels, or fewer channels where they are twice as wide."""
    return {"BLOCK_P": 64, "BLOCK_C": 32 if dtype == torch.float32 else 64}


def token_attention(
    x: Tensor, weight: Tensor, scale: float, out_dtype: torch.dtype | None = None
) -> Tensor:
    """Average the pixels of x into tokens with learned spatial attention.

    Args:
        x: [B, pixels, channels]; float32, float16 or bfloat16.
        weight: one row per token [groups, channels], at most 64 tokens; rounded to the dtype of x.
        scale: factor on the logits, positive.
        out_dtype: of the result; that of x if None.

    Returns:
        [B, groups, channels].

    Raises:
        ValueError: shapes, scale or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _check(x, weight, scale)
    check_launch(OP, x, weight=weight)
    x, weight = x.contiguous(), weight.contiguous()
    batch, pixels, channels = x.shape
    groups = len(weight)
    if groups > MOST_GROUPS:
        raise TooLarge(
            f"[{OP}] weight has {groups} rows, expected at most {MOST_GROUPS}; for more there is "
            f"{OP}_reference"
        )
    tiles = tiling(x.dtype)
    span, splits = spans(pixels, tiles["BLOCK_P"])
    columns = cdiv(channels, tiles["BLOCK_C"])
    scratch = {"dtype": torch.float32, "device": x.device}
    most = torch.empty((batch, splits, groups), **scratch)
    total = torch.empty_like(most)
    partial = torch.empty((batch, splits, groups, channels), **scratch)
    out = torch.empty((batch, groups, channels), dtype=out_dtype or x.dtype, device=x.device)
    launch(
        OP, token_attention_kernel, (splits, columns, batch),
        x, weight, most, total, partial, pixels, channels, groups, span, splits, scale * LOG2_E,
        GROUPS=padded(groups), PRECISION="ieee", num_warps=4, num_stages=2, **tiles,
    )  # fmt: skip
    launch(
        OP, token_attention_combine_kernel, (cdiv(channels, 64), groups, batch),
        most, total, partial, out, channels, groups, splits,
        SPLITS=SPLITS, BLOCK_C=64, num_warps=4,
    )  # fmt: skip
    return out


def _variant(dtype: torch.dtype) -> Variant:
    name = TYPES[dtype]
    scratch = ("most", "total", "partial")
    return Variant(
        name=f"token_attention_{name}",
        kernel=token_attention_kernel,
        types={"x": f"*{name}", "weight": "*fp32"}
        | dict.fromkeys(scratch, "*fp32")
        | dict.fromkeys(("pixels", "channels", "groups", "span", "splits"), "i32")
        | {"scale_log2": "fp32"},
        constexprs={"GROUPS": 16, "PRECISION": "ieee"} | tiling(dtype),
        aligned=("x", "weight", *scratch, "channels", "span"),
        grid=("splits", "ceil(channels / BLOCK_C)", "batch"),
        notes="Before token_attention_combine. splits = min(64, ceil(pixels / 128)); span = "
        "ceil(pixels / splits) rounded up to a multiple of 64; splits = ceil(pixels / span). "
        "scale_log2 is scale * log2(e). At most 16 groups.",
    )


VARIANTS = [_variant(dtype) for dtype in TYPES] + [
    Variant(
        name="token_attention_combine",
        kernel=token_attention_combine_kernel,
        types=dict.fromkeys(("most", "total", "partial", "out"), "*fp32")
        | dict.fromkeys(("channels", "groups", "splits"), "i32"),
        constexprs={"SPLITS": SPLITS, "BLOCK_C": 64},
        aligned=("most", "total", "partial", "out", "channels"),
        grid=("ceil(channels / BLOCK_C)", "groups", "batch"),
    )
]
