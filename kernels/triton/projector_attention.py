"""Every pixel reads from a few tokens and adds what it read (GTrans eq. 12).

out[p] = residual[p] + sum_t softmax_t(scale * (x[p] . key[t] + key_bias[t])) value[t],

the query projection being folded into the keys. `projector_score_map` goes on to compare x with
that sum (eq. 15-17, see score_map.py) without writing it, or rounding it, anywhere.
"""

import torch
from torch import Tensor

from .common import (
    LOG2_E,
    TYPES,
    TooLarge,
    Variant,
    cdiv,
    check_alike,
    check_launch,
    check_positive,
    check_shape,
    launch,
    padded,
    tl,
    triton,
    working_dtype,
)
from .score_map import SUMS, finish, score_map_reference, store_sums
from .token_attention import load_tile

OP = "projector_attention"
MOST_TOKENS = 128


def _check(
    x: Tensor,
    residual: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    key_bias: Tensor | None,
    op: str,
) -> None:
    check_shape(op, "x", x, (None, None, None))
    check_shape(op, "residual", residual, tuple(x.shape))
    check_shape(op, "key", key, (x.shape[0], None, x.shape[2]))
    check_shape(op, "value", value, tuple(key.shape))
    if key_bias is not None:
        check_shape(op, "key_bias", key_bias, tuple(key.shape[:2]))
    check_positive(op, "scale", scale)
    check_alike(op, x, residual=residual)
    check_alike(op, key, value=value)


def projector_attention_reference(
    x: Tensor,
    residual: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Compute what `projector_attention` computes, in plain PyTorch on any device."""
    _check(x, residual, key, value, scale, key_bias, OP)
    return _mapped(x, residual, key, value, scale, key_bias).to(x.dtype)


def _mapped(x, residual, key, value, scale, key_bias) -> Tensor:
    work = working_dtype(x, residual, key, value)
    x, residual, key, value = (t.to(work) for t in (x, residual, key, value))
    logits = torch.matmul(x, key.transpose(1, 2))
    if key_bias is not None:
        logits = logits + key_bias[:, None].to(work)
    return residual + torch.matmul((scale * logits).softmax(dim=-1), value)


def projector_score_map_reference(
    x: Tensor,
    residual: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    key_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what `projector_score_map` computes, in plain PyTorch on any device."""
    _check(x, residual, key, value, scale, key_bias, "projector_score_map")
    return score_map_reference(x, _mapped(x, residual, key, value, scale, key_bias))


@triton.jit
def token_weights(
    x,
    key,
    key_bias,
    pixel,
    pixels,
    channels,
    tokens,
    scale_log2,
    TOKENS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """[BLOCK_P, TOKENS]: how much each pixel reads of each token; rows sum to 1."""
    token = tl.arange(0, TOKENS)
    logits = tl.zeros((BLOCK_P, TOKENS), tl.float32)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        features = load_tile(x, pixel, channel, pixels, channels, channels)
        keys = load_tile(key, token, channel, tokens, channels, channels).to(features.dtype)
        logits = tl.dot(features, tl.trans(keys), logits, input_precision=PRECISION)
    if key_bias is not None:
        logits += tl.load(key_bias + token, mask=token < tokens, other=0.0).to(tl.float32)[None, :]
    logits = tl.where((token < tokens)[None, :], logits * scale_log2, -float("inf"))
    weights = tl.exp2(logits - tl.max(logits, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def projector_attention_kernel(
    x,
    residual,
    key,
    key_bias,
    value,
    out,
    pixels,
    channels,
    tokens,
    scale_log2,
    TOKENS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (tile of pixels, image); key_bias may be None."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    image = tl.program_id(1).to(tl.int64)
    x += image * pixels * channels
    residual += image * pixels * channels
    out += image * pixels * channels
    key += image * tokens * channels
    value += image * tokens * channels
    if key_bias is not None:
        key_bias += image * tokens
    weights = token_weights(
        x, key, key_bias, pixel, pixels, channels, tokens, scale_log2, TOKENS, BLOCK_P, BLOCK_C,
        PRECISION,
    ).to(x.dtype.element_ty)  # fmt: skip
    token = tl.arange(0, TOKENS)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        values = load_tile(value, token, channel, tokens, channels, channels).to(weights.dtype)
        y = load_tile(residual, pixel, channel, pixels, channels, channels).to(tl.float32)
        y = tl.dot(weights, values, y, input_precision=PRECISION)
        there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        at = out + pixel[:, None] * channels + channel[None, :]
        tl.store(at, y.to(out.dtype.element_ty), mask=there)


@triton.jit
def projector_score_map_kernel(
    x,
    residual,
    key,
    key_bias,
    value,
    score,
    sums,
    pixels,
    channels,
    tokens,
    tiles,
    scale_log2,
    TOKENS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (tile of pixels, image). Writes the map and the tile's four sums; see score_map."""
    tile = tl.program_id(0)
    pixel = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    image = tl.program_id(1).to(tl.int64)
    x += image * pixels * channels
    residual += image * pixels * channels
    key += image * tokens * channels
    value += image * tokens * channels
    if key_bias is not None:
        key_bias += image * tokens
    weights = token_weights(
        x, key, key_bias, pixel, pixels, channels, tokens, scale_log2, TOKENS, BLOCK_P, BLOCK_C,
        PRECISION,
    ).to(x.dtype.element_ty)  # fmt: skip
    token = tl.arange(0, TOKENS)
    squares_a = tl.zeros((BLOCK_P,), tl.float32)
    squares_b = tl.zeros((BLOCK_P,), tl.float32)
    squares = tl.zeros((BLOCK_P,), tl.float32)
    excess = tl.zeros((BLOCK_P,), tl.float32)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        values = load_tile(value, token, channel, tokens, channels, channels).to(weights.dtype)
        y = load_tile(residual, pixel, channel, pixels, channels, channels).to(tl.float32)
        y = tl.dot(weights, values, y, input_precision=PRECISION)
        # Beyond the last pixel the tokens are read all the same.
        y = tl.where((pixel < pixels)[:, None], y, 0.0)
        features = load_tile(x, pixel, channel, pixels, channels, channels).to(tl.float32)
        d = features - y
        squares_a += tl.sum(features * features, 1)
        squares_b += tl.sum(y * y, 1)
        squares += tl.sum(d * d, 1)
        excess += tl.sum(d * (features + y), 1)
    half_mean = 0.5 / pixels
    tl.store(score + image * pixels + pixel, squares * half_mean, mask=pixel < pixels)
    store_sums(
        sums, tile, tiles, image, tl.sum(squares_a, 0), tl.sum(squares_b, 0), tl.sum(squares, 0),
        tl.sum(excess, 0),
    )  # fmt: skip


def tiling(dtype: torch.dtype, tokens: int) -> dict[str, int]:
    """Choose tiles: 32 pixels, as the small maps of a batch of one make few programs of 64."""
    return {"TOKENS": padded(tokens), "BLOCK_P": 32, "BLOCK_C": 64 if tokens <= 32 else 32}


def _prepare(x, residual, key, value, scale, key_bias, op):
    _check(x, residual, key, value, scale, key_bias, op)
    check_launch(op, x, residual=residual, key=key, value=value, key_bias=key_bias)
    if key.shape[1] > MOST_TOKENS:
        raise TooLarge(
            f"[{op}] key has {key.shape[1]} tokens, expected at most {MOST_TOKENS}; for more there "
            f"is {op}_reference"
        )
    tensors = [x, residual, key, key_bias, value]
    return [None if t is None else t.contiguous() for t in tensors], tiling(x.dtype, key.shape[1])


def projector_attention(
    x: Tensor,
    residual: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Let every pixel of x read from a few tokens and add what it read to the residual.

    Args:
        x: what the pixels ask with [B, pixels, channels]; float32, float16 or bfloat16.
        residual: likewise.
        key: [B, tokens, channels], at most 128 tokens; rounded to the dtype of x.
        value: likewise.
        scale: factor on the logits before the softmax over the tokens, positive.
        key_bias: added to the logits before they are scaled [B, tokens].

    Returns:
        [B, pixels, channels] in the dtype of x.

    Raises:
        ValueError: shapes, scale or devices do not fit.
        TypeError: dtypes do not fit.
    """
    tensors, tiles = _prepare(x, residual, key, value, scale, key_bias, OP)
    batch, pixels, channels = x.shape
    out = torch.empty((batch, pixels, channels), dtype=x.dtype, device=x.device)
    launch(
        OP, projector_attention_kernel, (cdiv(pixels, tiles["BLOCK_P"]), batch),
        *tensors, out, pixels, channels, key.shape[1], scale * LOG2_E,
        PRECISION="ieee", num_warps=4, num_stages=2, **tiles,
    )  # fmt: skip
    return out


def projector_score_map(
    x: Tensor,
    residual: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    key_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare x with what `projector_attention` makes of these arguments, which is not written.

    Returns:
        map [B, pixels], mse [B] and cos [B] as `score_map` has them, all float32.

    Raises:
        ValueError: shapes, scale or devices do not fit.
        TypeError: dtypes do not fit.
    """
    op = "projector_score_map"
    tensors, tiles = _prepare(x, residual, key, value, scale, key_bias, op)
    batch, pixels, channels = x.shape
    count = cdiv(pixels, tiles["BLOCK_P"])
    score = torch.empty((batch, pixels), dtype=torch.float32, device=x.device)
    sums = torch.empty((batch, len(SUMS), count), dtype=torch.float32, device=x.device)
    launch(
        op, projector_score_map_kernel, (count, batch),
        *tensors, score, sums, pixels, channels, key.shape[1], count, scale * LOG2_E,
        PRECISION="ieee", num_warps=4, num_stages=2, **tiles,
    )  # fmt: skip
    return score, *finish(sums, pixels)


def _variant(dtype: torch.dtype, biased: bool, scored: bool) -> Variant:
    name = TYPES[dtype]
    maps = ("x", "residual")
    written = ("score", "sums") if scored else ("out",)
    constexprs = {"PRECISION": "ieee"} | tiling(dtype, 16)
    op = "projector_score_map" if scored else OP
    return Variant(
        name=f"{op}_{name}" + "_bias" * biased,
        kernel=projector_score_map_kernel if scored else projector_attention_kernel,
        types=dict.fromkeys(maps, f"*{name}")
        | ({"score": "*fp32", "sums": "*fp32", "tiles": "i32"} if scored else {"out": f"*{name}"})
        | dict.fromkeys(("key", "value", *["key_bias"] * biased), "*fp32")
        | dict.fromkeys(("pixels", "channels", "tokens"), "i32")
        | {"scale_log2": "fp32"},
        constexprs=constexprs | ({} if biased else {"key_bias": None}),
        aligned=(*maps, "key", "value", *written, "channels"),
        grid=("ceil(pixels / BLOCK_P)", "batch", "1"),
        notes="scale_log2 is scale * log2(e). At most 16 tokens."
        + " tiles = ceil(pixels / BLOCK_P); sums: [batch][4][tiles]; then score_map_finish."
        * scored,
    )


VARIANTS = [
    _variant(dtype, biased, scored)
    for dtype in TYPES
    for scored in (False, True)
    for biased in (False, True)
]
