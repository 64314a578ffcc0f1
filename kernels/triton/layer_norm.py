"""Layer normalisation of rows, a residual added behind it (Ba et al., 2016).

out = (x - mean) / sqrt(var + eps) * gamma + beta (+ residual).

Two passes over a row that stays in registers, not E[x^2] - E[x]^2: the one-pass form cancels when
|mean| is much larger than the deviation.
"""

import torch
from torch import Tensor

from .common import (
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

OP = "layer_norm"
WIDEST = 16384  # elements of a row


def _check(x: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor | None, eps: float) -> None:
    check_shape(OP, "x", x, (None, None))
    check_shape(OP, "gamma", gamma, (x.shape[1],))
    check_shape(OP, "beta", beta, (x.shape[1],))
    if residual is not None:
        check_shape(OP, "residual", residual, tuple(x.shape))
    check_positive(OP, "eps", eps)
    check_alike(OP, x, residual=residual)
    check_alike(OP, gamma, beta=beta)


def layer_norm_reference(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute what `layer_norm` computes, in plain PyTorch on any device."""
    _check(x, gamma, beta, residual, eps)
    work = working_dtype(x)
    centred = x.to(work) - x.to(work).mean(dim=1, keepdim=True)
    y = centred * (centred.square().mean(dim=1, keepdim=True) + eps).rsqrt()
    y = y * gamma.to(work) + beta.to(work)
    y = y if residual is None else y + residual.to(work)
    return y.to(out_dtype or x.dtype)


@triton.jit
def layer_norm_kernel(
    x,
    gamma,
    beta,
    residual,
    out,
    rows,
    width,
    eps,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Program (ROWS rows); residual may be None. out may be x or the residual."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    there = (row < rows)[:, None] & (column < width)[None, :]
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(values, 1) / width
    centred = tl.where((column < width)[None, :], values - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / width
    y = centred * (1.0 / tl.sqrt(variance + eps))[:, None]
    scale = tl.load(gamma + column, mask=column < width, other=0.0).to(tl.float32)
    shift = tl.load(beta + column, mask=column < width, other=0.0).to(tl.float32)
    y = y * scale[None, :] + shift[None, :]
    if residual is not None:
        y += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=there)


def tiling(width: int) -> dict[str, int]:
    """Choose tiles: narrow rows share a program, wide ones get more threads."""
    rows = max(1, min(4, 1024 // padded(width)))
    warps = 4 if width <= 2048 else 8 if width <= 8192 else 16
    return {"ROWS": rows, "WIDTH": padded(width), "num_warps": warps}


def layer_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Normalise every row of x and add a residual.

    Args:
        x: [rows, width], at most 16384 wide; float32, float16 or bfloat16.
        gamma: [width].
        beta: [width].
        residual: [rows, width] in the dtype of x, or None.
        eps: added to the variance, positive.
        out_dtype: of the result; that of x if None.

    Returns:
        [rows, width].

    Raises:
        ValueError: shapes, eps or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _check(x, gamma, beta, residual, eps)
    check_launch(OP, x, gamma=gamma, beta=beta, residual=residual)
    rows, width = x.shape
    if width > WIDEST:
        raise TooLarge(
            f"[{OP}] rows have {width} elements, expected at most {WIDEST}; for more there is "
            f"{OP}_reference"
        )
    x, gamma, beta = x.contiguous(), gamma.contiguous(), beta.contiguous()
    residual = None if residual is None else residual.contiguous()
    out = torch.empty((rows, width), dtype=out_dtype or x.dtype, device=x.device)
    tiles = tiling(width)
    grid = (cdiv(rows, tiles["ROWS"]),)
    launch(OP, layer_norm_kernel, grid, x, gamma, beta, residual, out, rows, width, eps, **tiles)
    return out


def _variant(out: torch.dtype, width: int, residual: bool) -> Variant:
    tiles = tiling(width)
    warps = tiles.pop("num_warps")
    read = ("x", "gamma", "beta", *["residual"] * residual)
    return Variant(
        name=f"layer_norm_{TYPES[out]}_w{width}" + "_residual" * residual,
        kernel=layer_norm_kernel,
        types=dict.fromkeys(read, "*fp32")
        | {"out": f"*{TYPES[out]}", "rows": "i32", "width": "i32", "eps": "fp32"},
        constexprs=tiles | ({} if residual else {"residual": None}),
        aligned=(*read, "out", "width"),
        grid=("ceil(rows / ROWS)", "1", "1"),
        num_warps=warps,
        notes="width is at most WIDTH and a multiple of 16.",
    )


VARIANTS = [
    _variant(out, width, residual)
    for out in TYPES
    for width in (256, 1024)
    for residual in (False, True)
]
