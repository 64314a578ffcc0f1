"""How two feature maps differ, per pixel and as a whole (GTrans eq. 15-17), in one pass over both.

map[p] = 0.5 |a[p] - b[p]|^2 / pixels; mse = sum_p |a[p] - b[p]|^2 / pixels;
cos = 1 - a.b / (|a| |b|).

The cosine distance of nearly equal maps is the interesting one, and 1 - a.b / (|a| |b|) loses all
its digits there. With d = a - b and e = sum d (a + b) = |a|^2 - |b|^2 the same quantity is
  (|d|^2 - (|a| - |b|)^2) / (2 |a| |b|),  |a| - |b| = e / (|a| + |b|),
where nothing cancels but what is truly radial. A program sums its tile of pixels in float32; the
tiles are summed in float64 by one more program, in a fixed order.
"""

import torch
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

OP = "score_map"
SUMS = ("squares_a", "squares_b", "difference", "excess")  # |a|^2, |b|^2, |d|^2, e of a tile


def _check(a: Tensor, b: Tensor) -> None:
    check_shape(OP, "a", a, (None, None, None))
    check_shape(OP, "b", b, tuple(a.shape))
    check_alike(OP, a, b=b)


def score_map_reference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what `score_map` computes, in plain PyTorch on any device."""
    _check(a, b)
    work = working_dtype(a, b)
    a, b = a.to(work), b.to(work)
    pixels = a.shape[1]
    difference = a - b
    squares = difference.square().sum(dim=2)
    norm_a, norm_b = (x.square().sum(dim=(1, 2)).sqrt() for x in (a, b))
    product = norm_a * norm_b
    small = product < 1e-12
    radial = (difference * (a + b)).sum(dim=(1, 2)) / torch.where(small, 1.0, norm_a + norm_b)
    near = (squares.sum(dim=1) - radial.square()).clamp_min(0) / (2 * product.clamp_min(1e-12))
    cos = torch.where(small, 1 - (a * b).sum(dim=(1, 2)) / 1e-12, near)
    return 0.5 * squares / pixels, squares.sum(dim=1) / pixels, cos


@triton.jit
def store_sums(sums, tile, tiles, image, squares_a, squares_b, difference, excess):
    """Write the four sums of a tile: sums is [image][4][tiles]."""
    at = sums + image * 4 * tiles + tile
    tl.store(at, squares_a)
    tl.store(at + tiles, squares_b)
    tl.store(at + 2 * tiles, difference)
    tl.store(at + 3 * tiles, excess)


@triton.jit
def score_map_kernel(
    a,
    b,
    score,
    sums,
    pixels,
    channels,
    tiles,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (tile of pixels, image). Writes the map and the tile's four sums."""
    tile = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    a += image * pixels * channels
    b += image * pixels * channels
    pixel = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    squares_a = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    squares_b = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    excess = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        at = pixel[:, None] * channels + channel[None, :]
        there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        va = tl.load(a + at, mask=there, other=0.0).to(tl.float32)
        vb = tl.load(b + at, mask=there, other=0.0).to(tl.float32)
        d = va - vb
        squares_a += va * va
        squares_b += vb * vb
        squares += d * d
        excess += d * (va + vb)
    difference = tl.sum(squares, 1)
    half_mean = 0.5 / pixels
    tl.store(score + image * pixels + pixel, difference * half_mean, mask=pixel < pixels)
    store_sums(
        sums, tile, tiles, image, tl.sum(tl.sum(squares_a, 1), 0), tl.sum(tl.sum(squares_b, 1), 0),
        tl.sum(difference, 0), tl.sum(tl.sum(excess, 1), 0),
    )  # fmt: skip


@triton.jit
def sum_tiles(sums, tiles, BLOCK_T: tl.constexpr):
    """Sum `tiles` float32 numbers in float64."""
    tile = tl.arange(0, BLOCK_T)
    total = tl.zeros((BLOCK_T,), tl.float64)
    for first in range(0, tiles, BLOCK_T):
        part = tl.load(sums + first + tile, mask=first + tile < tiles, other=0.0)
        total += part.to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def score_map_finish_kernel(sums, mse, cos, pixels, tiles, BLOCK_T: tl.constexpr):
    """Program (image): mse and cos of the tiles' sums."""
    image = tl.program_id(0).to(tl.int64)
    sums += image * 4 * tiles
    squares_a = sum_tiles(sums, tiles, BLOCK_T)
    squares_b = sum_tiles(sums + tiles, tiles, BLOCK_T)
    difference = sum_tiles(sums + 2 * tiles, tiles, BLOCK_T)
    excess = sum_tiles(sums + 3 * tiles, tiles, BLOCK_T)
    norm_a = tl.sqrt(squares_a)
    norm_b = tl.sqrt(squares_b)
    product = norm_a * norm_b
    none = 1.0 - (squares_a + squares_b - difference) * 0.5 / 1e-12
    small = product < 1e-12
    radial = excess / tl.where(small, 1.0, norm_a + norm_b)
    near = (difference - radial * radial) / (2.0 * tl.where(small, 1.0, product))
    # Below zero by rounding only: |a - b| >= ||a| - |b||. Not a maximum, which would lose a NaN.
    near = tl.where(near < 0.0, 0.0, near)
    tl.store(mse + image, (difference / pixels).to(tl.float32))
    tl.store(cos + image, tl.where(small, none, near).to(tl.float32))


def tile_of(pixels: int) -> int:
    """Pixels of a program: fewer where there are few, so that the device has something to do."""
    return 16 if pixels >= 1024 else 4


def finish(sums: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Launch the second kernel on sums [B, 4, tiles]: mse [B] and cos [B]."""
    mse = torch.empty(len(sums), dtype=torch.float32, device=sums.device)
    cos = torch.empty_like(mse)
    launch(
        OP, score_map_finish_kernel, (len(sums),),
        sums, mse, cos, pixels, sums.shape[2], BLOCK_T=256, num_warps=4,
    )  # fmt: skip
    return mse, cos


def score_map(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare two feature maps per pixel and as a whole.

    Args:
        a: [B, pixels, channels]; float32, float16 or bfloat16.
        b: likewise.

    Returns:
        map [B, pixels], mse [B] and cos [B] in 0..2, all float32.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _check(a, b)
    check_launch(OP, a, b=b)
    a, b = a.contiguous(), b.contiguous()
    batch, pixels, channels = a.shape
    block = tile_of(pixels)
    tiles = cdiv(pixels, block)
    score = torch.empty((batch, pixels), dtype=torch.float32, device=a.device)
    sums = torch.empty((batch, len(SUMS), tiles), dtype=torch.float32, device=a.device)
    launch(
        OP, score_map_kernel, (tiles, batch),
        a, b, score, sums, pixels, channels, tiles, BLOCK_P=block, BLOCK_C=128, num_warps=4,
    )  # fmt: skip
    return score, *finish(sums, pixels)


def _variant(dtype: torch.dtype, block: int) -> Variant:
    name = TYPES[dtype]
    return Variant(
        name=f"score_map_{name}_p{block}",
        kernel=score_map_kernel,
        types={"a": f"*{name}", "b": f"*{name}", "score": "*fp32", "sums": "*fp32"}
        | dict.fromkeys(("pixels", "channels", "tiles"), "i32"),
        constexprs={"BLOCK_P": block, "BLOCK_C": 128},
        aligned=("a", "b", "score", "sums", "channels"),
        grid=("tiles", "batch", "1"),
        notes="tiles = ceil(pixels / BLOCK_P); sums: [batch][4][tiles]; then score_map_finish.",
    )


VARIANTS = [_variant(dtype, block) for dtype in TYPES for block in (4, 16)] + [
    Variant(
        name="score_map_finish",
        kernel=score_map_finish_kernel,
        types=dict.fromkeys(("sums", "mse", "cos"), "*fp32")
        | dict.fromkeys(("pixels", "tiles"), "i32"),
        constexprs={"BLOCK_T": 256},
        aligned=("sums",),
        grid=("batch", "1", "1"),
    )
]
