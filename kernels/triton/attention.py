"""Multi-head attention without the matrix of weights in memory.

Dao et al., "FlashAttention" (2022), algorithm 1, with the loops as in "FlashAttention-2" (2023):
a program keeps a tile of queries, walks over the keys and rescales what it has summed when a larger
logit turns up (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).

out[q] = sum_k softmax_k(scale * q . k) v[k] per head; a head's channels lie together, so that
[tokens, heads * dim] is read as the linear layers write it.
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
    load_rows,
    padded,
    row_step,
    rows_of,
    tl,
    triton,
    working_dtype,
)

OP = "attention"
LARGEST_HEAD = 256  # channels: beyond it a tile no longer fits into the shared memory of sm_86


def _check(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> None:
    check_shape(OP, "v", v, (None, None, None))
    check_shape(OP, "k", k, (v.shape[0], v.shape[1], None))
    check_shape(OP, "q", q, (1 if len(q) == 1 else v.shape[0], None, k.shape[2]))
    if heads < 1 or k.shape[2] % heads or v.shape[2] % heads:
        raise ValueError(
            f"[{OP}] heads is {heads}, expected a divisor of the widths {k.shape[2]} of q and "
            f"k and {v.shape[2]} of v"
        )
    check_positive(OP, "scale", scale)
    check_alike(OP, q, k=k, v=v)


def attention_reference(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Compute what `attention` computes, in plain PyTorch on any device."""
    _check(q, k, v, heads, scale)
    work = working_dtype(q, k, v)
    q, k, wide = (t.to(work).unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (scale * torch.matmul(q, k.transpose(2, 3))).softmax(dim=-1)
    return torch.matmul(weights, wide).transpose(1, 2).flatten(2).to(v.dtype)


@triton.jit
def attend(
    q,
    k,
    v,
    most,
    total,
    acc,
    count,
    k_row,
    v_row,
    scale_log2,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PADDED_VALUE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of keys: the running maximum, the sum of the weights, and the weighted values."""
    key = load_rows(k, k_row, count, BLOCK_K, HEAD_DIM, PADDED_DIM, MASKED)
    value = load_rows(v, v_row, count, BLOCK_K, VALUE_DIM, PADDED_VALUE, MASKED)
    logits = tl.dot(q, tl.trans(key), input_precision=PRECISION)
    if MASKED:
        logits = tl.where((tl.arange(0, BLOCK_K) < count)[None, :], logits, -float("inf"))
    # Scaled after the maximum is taken, which a positive scale allows: one multiply-add per weight.
    larger = tl.maximum(most, tl.max(logits, 1) * scale_log2)
    weights = tl.exp2(logits * scale_log2 - larger[:, None])
    shrink = tl.exp2(most - larger)
    total = total * shrink + tl.sum(weights, 1)
    acc = acc * shrink[:, None]
    acc = tl.dot(weights.to(value.dtype), value, acc, input_precision=PRECISION)
    return larger, total, acc


@triton.jit
def attention_kernel(
    q,
    k,
    v,
    out,
    queries,
    keys,
    q_row,
    k_row,
    v_row,
    out_row,
    q_batch,
    k_batch,
    v_batch,
    out_batch,
    scale_log2,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PADDED_VALUE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (tile of queries, head, image). Steps between rows and images are in elements."""
    first = tl.program_id(0) * BLOCK_Q
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    q += image * q_batch + first.to(tl.int64) * q_row + head * HEAD_DIM
    k += image * k_batch + head * HEAD_DIM
    v += image * v_batch + head * VALUE_DIM
    out += image * out_batch + first.to(tl.int64) * out_row + head * VALUE_DIM
    query = load_rows(q, q_row, queries - first, BLOCK_Q, HEAD_DIM, PADDED_DIM, True)
    most = tl.full((BLOCK_Q,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    acc = tl.zeros((BLOCK_Q, PADDED_VALUE), tl.float32)
    # Only the last tile of keys may need a mask, so that the loop has none.
    whole = keys // BLOCK_K * BLOCK_K
    for start in range(0, whole, BLOCK_K):
        most, total, acc = attend(
            query, k + start * k_row, v + start * v_row, most, total, acc, BLOCK_K, k_row, v_row,
            scale_log2, HEAD_DIM, VALUE_DIM, PADDED_DIM, PADDED_VALUE, BLOCK_K, False, PRECISION,
        )  # fmt: skip
    if whole < keys:
        most, total, acc = attend(
            query, k + whole * k_row, v + whole * v_row, most, total, acc, keys - whole, k_row,
            v_row, scale_log2, HEAD_DIM, VALUE_DIM, PADDED_DIM, PADDED_VALUE, BLOCK_K, True,
            PRECISION,
        )  # fmt: skip
    row = tl.arange(0, BLOCK_Q)[:, None]
    column = tl.arange(0, PADDED_VALUE)[None, :]
    read = (acc / total[:, None]).to(out.dtype.element_ty)
    there = (first + row < queries) & (column < VALUE_DIM)
    tl.store(out + row * out_row + column, read, mask=there)


def tiling(dtype: torch.dtype, width: int, queries: int) -> dict[str, int]:
    """Choose tiles for heads of `width` (padded) channels.

    A tile of 64 queries gives a warpgroup of Hopper's its 64 rows and enough programs to a batch of
    one image; long sequences get 128, which halves the reading of keys. float32 goes through fused
    multiply-adds, whose operands fill the registers: smaller tiles and more threads.
    """
    if dtype == torch.float32:
        block_q, block_k, stages = (32, 32, 2) if width <= 64 else (16, 16, 1)
        return {"BLOCK_Q": block_q, "BLOCK_K": block_k, "num_warps": 8, "num_stages": stages}
    if width > 128:
        return {"BLOCK_Q": 64, "BLOCK_K": 32, "num_warps": 8, "num_stages": 1}
    if width > 64:
        return {"BLOCK_Q": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}
    if queries > 1024:
        return {"BLOCK_Q": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
    return {"BLOCK_Q": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale q k^T) v per head.

    Args:
        q: [B, tq, d], or [1, tq, d] where all images ask alike; float32, float16 or bfloat16.
        k: [B, tk, d].
        v: [B, tk, dv].
        heads: divides d and dv; at most 256 channels each.
        scale: factor on the logits, positive.

    Returns:
        [B, tq, dv] in the dtype of v.

    Raises:
        ValueError: shapes, heads, scale or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _check(q, k, v, heads, scale)
    check_launch(OP, q, k=k, v=v)
    batch, keys, value_width = v.shape
    queries, head_dim, value_dim = q.shape[1], q.shape[2] // heads, value_width // heads
    if max(head_dim, value_dim) > LARGEST_HEAD:
        raise TooLarge(
            f"[{OP}] a head has {max(head_dim, value_dim)} channels, expected at most "
            f"{LARGEST_HEAD}; for more there is {OP}_reference"
        )
    q, k, v = rows_of(q), rows_of(k), rows_of(v)
    out = torch.empty((batch, queries, value_width), dtype=v.dtype, device=v.device)
    tiles = tiling(q.dtype, padded(max(head_dim, value_dim)), queries)
    grid = (cdiv(queries, tiles["BLOCK_Q"]), heads, batch)
    launch(
        OP, attention_kernel, grid,
        q, k, v, out, queries, keys, row_step(q), row_step(k), row_step(v), row_step(out),
        q.stride(0) if len(q) == batch else 0, k.stride(0), v.stride(0), out.stride(0),
        scale * LOG2_E,
        HEAD_DIM=head_dim, VALUE_DIM=value_dim, PADDED_DIM=padded(head_dim),
        PADDED_VALUE=padded(value_dim), PRECISION="ieee", **tiles,
    )  # fmt: skip
    return out


def _variant(dtype: torch.dtype, head_dim: int, value_dim: int, queries: int) -> Variant:
    tiles = tiling(dtype, padded(max(head_dim, value_dim)), queries)
    warps, stages = tiles.pop("num_warps"), tiles.pop("num_stages")
    name = TYPES[dtype]
    pointers, rows = ("q", "k", "v", "out"), ("q_row", "k_row", "v_row", "out_row")
    images = ("q_batch", "k_batch", "v_batch", "out_batch")
    width = f"d{head_dim}" + (f"v{value_dim}" if value_dim != head_dim else "")
    # Rows of heads of 40 channels are whole steps of 16 for every second number of heads only.
    steps = () if head_dim % 16 else rows + images
    return Variant(
        name=f"attention_{name}_{width}_q{tiles['BLOCK_Q']}",
        kernel=attention_kernel,
        types=dict.fromkeys(pointers, f"*{name}")
        | dict.fromkeys(("queries", "keys"), "i32")
        | dict.fromkeys(rows, "i32")
        | dict.fromkeys(images, "i64")
        | {"scale_log2": "fp32"},
        constexprs={"HEAD_DIM": head_dim, "VALUE_DIM": value_dim}
        | {"PADDED_DIM": padded(head_dim), "PADDED_VALUE": padded(value_dim)}
        | {"PRECISION": "ieee"}
        | tiles,
        aligned=pointers + steps,
        grid=("ceil(queries / BLOCK_Q)", "heads", "batch"),
        num_warps=warps,
        num_stages=stages,
        notes="scale_log2 is scale * log2(e). q_batch is 0 where all images ask alike.",
    )


VARIANTS = [
    _variant(dtype, head_dim, value_dim, queries)
    for dtype in (torch.float16, torch.bfloat16)
    # 40: SAAE's three heads of 120 channels. 32 and 64: InTra's windows, whose queries and keys are
    # half as wide as its tokens. 256: the one head of GTrans's tokens, which are few.
    for head_dim, value_dim in ((16, 16), (32, 32), (32, 64), (40, 40), (64, 64), (256, 256))
    for queries in ((64,) if head_dim == 256 else (64, 4096))
] + [_variant(torch.float32, head_dim, head_dim, 64) for head_dim in (32, 64)]
