"""Attention of every block of pixels to its neighbourhood.

Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones" (HaloNet,
2021), eq. 2-3, with the relative positions of Mathian et al., "HaloAE" (2022), section 3.1. The
queries of a block are its block * block pixels, the keys those of its window, which has `halo` more
pixels on every side: u = block + 2 * halo. With query (i, j) counted from the block's corner and
key (m, n) from the window's,

    logit = scale * q . (k + rows[m - i + u - 1] + columns[n - j + u - 1]),

keys outside the map left out. `legacy_mask` leaves out those inside instead, as the published code
of HaloAE does: a block whose window lies inside the map then averages the window's values, any
other reads only the zeros around the map.
"""

import torch
import torch.nn.functional as F
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
    load_rows,
    padded,
    row_step,
    rows_of,
    tl,
    triton,
    working_dtype,
)

OP = "halo_attention"
LARGEST_HEAD = 128  # channels
LARGEST_WINDOW = 64  # pixels along a side


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    columns: Tensor,
    block: int,
    halo: int,
    heads: int,
    scale: float,
) -> None:
    check_shape(OP, "q", q, (None, None, None, None))
    check_shape(OP, "k", k, tuple(q.shape))
    check_shape(OP, "v", v, (*q.shape[:3], None))
    height, width = q.shape[1:3]
    if block < 1 or halo < 0:
        raise ValueError(
            f"[{OP}] block is {block} and halo {halo}, expected a block of at least 1 and a halo "
            "that is not negative"
        )
    if height % block or width % block:
        raise ValueError(
            f"[{OP}] the map is {height}x{width}, expected sides divisible by the block of {block}"
        )
    if heads < 1 or q.shape[3] % heads or v.shape[3] % heads:
        raise ValueError(
            f"[{OP}] heads is {heads}, expected a divisor of the widths {q.shape[3]} of q and k "
            f"and {v.shape[3]} of v"
        )
    table = (2 * (block + 2 * halo) - 1, q.shape[3] // heads)
    check_shape(OP, "rows", rows, table)
    check_shape(OP, "columns", columns, table)
    check_positive(OP, "scale", scale)
    check_alike(OP, q, k=k, v=v)
    check_alike(OP, rows, columns=columns)


def halo_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    columns: Tensor,
    block: int,
    halo: int,
    heads: int,
    scale: float,
    legacy_mask: bool = False,
) -> Tensor:
    """Compute what `halo_attention` computes, in plain PyTorch on any device."""
    _check(q, k, v, rows, columns, block, halo, heads, scale)
    height, width = q.shape[1:3]
    window = block + 2 * halo
    work, result = working_dtype(q, k, v), v.dtype
    q, k, v, rows, columns = (t.to(work) for t in (q, k, v, rows, columns))

    def windows(x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, blocks, window, window, C]."""
        x = F.pad(x, (0, 0, halo, halo, halo, halo))
        x = x.unfold(1, window, block).unfold(2, window, block)  # [B, m, n, C, w, w]
        return x.flatten(1, 2).permute(0, 1, 3, 4, 2)

    blocks = q.unflatten(1, (-1, block)).unflatten(3, (-1, block)).transpose(2, 3).flatten(1, 2)
    blocks = blocks.unflatten(4, (heads, -1))
    steps = torch.arange(window, device=q.device)
    apart = steps - steps[:block, None] + window - 1  # [block, window]
    logits = torch.einsum("bnijhd,bnklhd->bnhijkl", blocks, windows(k).unflatten(4, (heads, -1)))
    logits = logits + torch.einsum("bnijhd,ikd->bnhijk", blocks, rows[apart])[..., None]
    logits = logits + torch.einsum("bnijhd,jld->bnhijl", blocks, columns[apart])[..., None, :]
    inside = windows(q.new_ones(1, height, width, 1))[0, :, None, None, None, ..., 0] > 0
    lowest = torch.finfo(torch.float32).min
    logits = (scale * logits).masked_fill(inside if legacy_mask else ~inside, lowest)
    weights = logits.flatten(5).softmax(dim=-1).unflatten(5, (window, window))
    read = torch.einsum("bnhijkl,bnklhc->bnijhc", weights, windows(v).unflatten(4, (heads, -1)))
    read = read.flatten(4).unflatten(1, (-1, width // block)).transpose(2, 3)
    return read.flatten(3, 4).flatten(1, 2).to(result)


@triton.jit
def position_terms(
    query,
    table,
    offset,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    SIDE: tl.constexpr,
    LENGTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Q . table[m - offset + WINDOW - 1] of each query with every m of its window: [queries, SIDE].

    All distances first, in one product with the table; then each query picks its own.
    """
    rows = load_rows(table, HEAD_DIM, 2 * WINDOW - 1, LENGTH, HEAD_DIM, PADDED_DIM, True)
    every = tl.dot(query, tl.trans(rows.to(query.dtype)), input_precision=PRECISION)
    apart = tl.arange(0, SIDE)[None, :] - offset[:, None] + (WINDOW - 1)
    return tl.gather(every, tl.minimum(apart, LENGTH - 1), 1)


@triton.jit
def halo_attention_kernel(
    q,
    k,
    v,
    rows,
    columns,
    out,
    height,
    width,
    q_pixel,
    k_pixel,
    v_pixel,
    out_pixel,
    q_batch,
    k_batch,
    v_batch,
    out_batch,
    scale_log2,
    BLOCK: tl.constexpr,
    HALO: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PADDED_VALUE: tl.constexpr,
    SIDE: tl.constexpr,
    LENGTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    STEP: tl.constexpr,
    LEGACY_MASK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (block and tile of its queries, head, image).

    Keys are taken STEP rows of the window at a time, each row padded to SIDE, a power of two from
    WINDOW up; LENGTH holds the 2 * WINDOW - 1 distances likewise. For the paper's window of 16
    nothing is padded but the tile of queries: 3 * 64 for 144.
    """
    WINDOW: tl.constexpr = BLOCK + 2 * HALO
    QUERIES: tl.constexpr = BLOCK * BLOCK
    TILES: tl.constexpr = (QUERIES + BLOCK_Q - 1) // BLOCK_Q
    corner = tl.program_id(0) // TILES
    first = tl.program_id(0) % TILES * BLOCK_Q
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    across = width // BLOCK
    top = corner // across * BLOCK
    left = corner % across * BLOCK
    q += image * q_batch + head * HEAD_DIM
    k += image * k_batch + head * HEAD_DIM
    v += image * v_batch + head * VALUE_DIM
    out += image * out_batch + head * VALUE_DIM

    place = first + tl.arange(0, BLOCK_Q)
    i = tl.minimum(place // BLOCK, BLOCK - 1)
    j = place % BLOCK
    pixel = (top + i) * width + left + j
    value_column = tl.arange(0, PADDED_VALUE)[None, :]
    # A tile of keys as [STEP, SIDE] and flat.
    m = tl.arange(0, STEP)
    n = tl.arange(0, SIDE)
    flat = tl.arange(0, STEP * SIDE)
    x = left - HALO + flat % SIDE
    x_inside = (flat % SIDE < WINDOW) & (x >= 0) & (x < width)

    if LEGACY_MASK:
        acc = tl.zeros((PADDED_VALUE,), tl.float32)
        for start in range(0, WINDOW, STEP):
            y = top - HALO + start + flat // SIDE
            inside = x_inside & (start + flat // SIDE < WINDOW) & (y >= 0) & (y < height)
            at = v + (y * width + x)[:, None] * v_pixel + value_column
            value = tl.load(at, mask=inside[:, None] & (value_column < VALUE_DIM), other=0.0)
            acc += tl.sum(value.to(tl.float32), 0)
        all_inside = (top >= HALO) & (left >= HALO)
        all_inside &= (top + BLOCK + HALO <= height) & (left + BLOCK + HALO <= width)
        # Times zero, not zero: a value that is not a number stays one.
        mean = acc * tl.where(all_inside, 1.0 / (WINDOW * WINDOW), 0.0)
        read = tl.broadcast_to(mean[None, :], (BLOCK_Q, PADDED_VALUE))
    else:
        column = tl.arange(0, PADDED_DIM)[None, :]
        there = (place < QUERIES)[:, None] & (column < HEAD_DIM)
        query = tl.load(q + pixel[:, None] * q_pixel + column, mask=there, other=0.0)
        n_inside = (n < WINDOW) & (left - HALO + n >= 0) & (left - HALO + n < width)
        by_column = position_terms(
            query, columns, j, HEAD_DIM, PADDED_DIM, WINDOW, SIDE, LENGTH, PRECISION
        )
        # A row or column outside the map is minus infinity, and so is every key of it.
        by_column = tl.where(n_inside[None, :], by_column, -float("inf"))
        by_row = position_terms(
            query, rows, i, HEAD_DIM, PADDED_DIM, WINDOW, SIDE, LENGTH, PRECISION
        )
        # Not minus infinity: the first step's keys may all lie outside, and -inf + inf is no number
        most = tl.full((BLOCK_Q,), -1.0e30, tl.float32)
        total = tl.zeros((BLOCK_Q,), tl.float32)
        acc = tl.zeros((BLOCK_Q, PADDED_VALUE), tl.float32)
        for start in range(0, WINDOW, STEP):
            y = top - HALO + start + flat // SIDE
            inside = x_inside & (start + flat // SIDE < WINDOW) & (y >= 0) & (y < height)
            at = (y * width + x)[:, None]
            key = tl.load(
                k + at * k_pixel + column, mask=inside[:, None] & (column < HEAD_DIM), other=0.0
            )
            value = tl.load(
                v + at * v_pixel + value_column,
                mask=inside[:, None] & (value_column < VALUE_DIM),
                other=0.0,
            )
            these = tl.broadcast_to((start + m)[None, :], (BLOCK_Q, STEP))
            down = tl.gather(by_row, tl.minimum(these, SIDE - 1), 1)
            m_inside = (start + m < WINDOW) & (top - HALO + start + m >= 0)
            m_inside &= top - HALO + start + m < height
            down = tl.where(m_inside[None, :], down, -float("inf"))
            logits = tl.dot(query, tl.trans(key), input_precision=PRECISION)
            logits = tl.reshape(logits, (BLOCK_Q, STEP, SIDE))
            logits = logits + down[:, :, None] + by_column[:, None, :]
            logits = tl.reshape(logits, (BLOCK_Q, STEP * SIDE))
            larger = tl.maximum(most, tl.max(logits, 1) * scale_log2)
            weights = tl.exp2(logits * scale_log2 - larger[:, None])
            shrink = tl.exp2(most - larger)
            total = total * shrink + tl.sum(weights, 1)
            acc = acc * shrink[:, None]
            acc = tl.dot(weights.to(value.dtype), value, acc, input_precision=PRECISION)
            most = larger
        read = acc / total[:, None]

    at = out + pixel[:, None] * out_pixel + value_column
    there = (place < QUERIES)[:, None] & (value_column < VALUE_DIM)
    tl.store(at, read.to(out.dtype.element_ty), mask=there)


def tiling(dtype: torch.dtype, block: int, halo: int, width: int) -> dict[str, int]:
    """Choose tiles for heads of `width` (padded) channels.

    64 keys at a time: with 128 a program takes 166 registers of a thread on sm_90, with 64 108, and
    four programs share a multiprocessor.
    """
    window = block + 2 * halo
    side = padded(window)
    half = dtype != torch.float32
    queries = min(padded(block * block), 64 if half else 32)
    tiles = {"SIDE": side, "LENGTH": padded(2 * window - 1), "BLOCK_Q": queries}
    tiles |= {"STEP": max(1, min(64 // side, padded(window, 1)))}
    warps = 4 if half or width <= 32 else 8
    return tiles | {"num_warps": warps, "num_stages": 2 if width <= 64 else 1}


def halo_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    columns: Tensor,
    block: int,
    halo: int,
    heads: int,
    scale: float,
    legacy_mask: bool = False,
) -> Tensor:
    """Let the queries of every block of pixels attend to the block and its halo.

    Args:
        q: [B, H, W, heads * d], H and W multiples of block; float32, float16 or bfloat16.
        k: likewise.
        v: [B, H, W, heads * dv].
        rows: [2 * (block + 2 * halo) - 1, d], alike for all heads; best float32.
        columns: likewise.
        block: side of a block.
        halo: pixels around it; the window has at most 64 along a side.
        heads: of at most 128 channels each.
        scale: factor on the logits, positive.
        legacy_mask: leave out the keys inside the map, not those outside.

    Returns:
        [B, H, W, heads * dv] in the dtype of v.

    Raises:
        ValueError: shapes, sizes or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _check(q, k, v, rows, columns, block, halo, heads, scale)
    check_launch(OP, q, k=k, v=v, rows=rows, columns=columns)
    batch, height, width, inner = q.shape
    head_dim, value_dim, window = inner // heads, v.shape[3] // heads, block + 2 * halo
    if max(head_dim, value_dim) > LARGEST_HEAD or window > LARGEST_WINDOW:
        raise TooLarge(
            f"[{OP}] a head has {max(head_dim, value_dim)} channels and a window {window} pixels "
            f"along a side, expected at most {LARGEST_HEAD} and {LARGEST_WINDOW}; for more there "
            f"is {OP}_reference"
        )
    q, k, v = rows_of(q), rows_of(k), rows_of(v)
    rows, columns = rows.contiguous(), columns.contiguous()
    out = torch.empty((batch, height, width, v.shape[3]), dtype=v.dtype, device=v.device)
    tiles = tiling(q.dtype, block, halo, padded(max(head_dim, value_dim)))
    blocks = (height // block) * (width // block)
    grid = (blocks * cdiv(block * block, tiles["BLOCK_Q"]), heads, batch)
    launch(
        OP, halo_attention_kernel, grid,
        q, k, v, rows, columns, out, height, width,
        row_step(q), row_step(k), row_step(v), row_step(out),
        q.stride(0), k.stride(0), v.stride(0), out.stride(0), scale * LOG2_E,
        BLOCK=block, HALO=halo, HEAD_DIM=head_dim, VALUE_DIM=value_dim,
        PADDED_DIM=padded(head_dim), PADDED_VALUE=padded(value_dim),
        LEGACY_MASK=bool(legacy_mask), PRECISION="ieee", **tiles,
    )  # fmt: skip
    return out


def _variant(dtype: torch.dtype, head_dim: int, legacy_mask: bool) -> Variant:
    block, halo = 12, 2
    tiles = tiling(dtype, block, halo, head_dim)
    warps, stages = tiles.pop("num_warps"), tiles.pop("num_stages")
    name = TYPES[dtype]
    pointers, pixels = ("q", "k", "v", "out"), ("q_pixel", "k_pixel", "v_pixel", "out_pixel")
    images = ("q_batch", "k_batch", "v_batch", "out_batch")
    return Variant(
        name=f"halo_attention_{name}_b{block}h{halo}_d{head_dim}" + "_legacy" * legacy_mask,
        kernel=halo_attention_kernel,
        types=dict.fromkeys(pointers, f"*{name}")
        | {"rows": "*fp32", "columns": "*fp32", "height": "i32", "width": "i32"}
        | dict.fromkeys(pixels, "i32")
        | dict.fromkeys(images, "i64")
        | {"scale_log2": "fp32"},
        constexprs={"BLOCK": block, "HALO": halo, "HEAD_DIM": head_dim, "VALUE_DIM": head_dim}
        | {"PADDED_DIM": head_dim, "PADDED_VALUE": head_dim, "LEGACY_MASK": legacy_mask}
        | {"PRECISION": "ieee"}
        | tiles,
        aligned=pointers + ("rows", "columns") + pixels + images,
        grid=(
            "(height / BLOCK) * (width / BLOCK) * ceil(BLOCK * BLOCK / BLOCK_Q)",
            "heads",
            "batch",
        ),
        num_warps=warps,
        num_stages=stages,
        notes="scale_log2 is scale * log2(e). rows and columns: [2 * (BLOCK + 2 * HALO) - 1]"
        "[HEAD_DIM], as in the plan.",
    )


VARIANTS = [
    _variant(dtype, 16, legacy_mask)
    for dtype in (torch.float16, torch.bfloat16, torch.float32)
    for legacy_mask in (False, True)
]
