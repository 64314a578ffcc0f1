"""Separable Gaussian blur, the border mirrored without repeating the edge pixel ("reflect").

One kernel, launched twice: along the rows' axis into float32 scratch, then along the columns'.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import (
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

OP = "gaussian_blur"
BLOCK = 256


def _check(x: Tensor, kernel: Tensor) -> None:
    check_shape(OP, "x", x, (None, None, None))
    check_shape(OP, "kernel", kernel, (None,))
    taps, side = len(kernel), min(x.shape[1:])
    if taps % 2 == 0 or taps // 2 >= side:
        raise ValueError(
            f"[{OP}] kernel has {taps} taps, expected an odd number whose half, rounded down, is "
            f"below the smaller side of the map, {side}"
        )


def gaussian_blur_reference(x: Tensor, kernel: Tensor) -> Tensor:
    """Compute what `gaussian_blur` computes, in plain PyTorch on any device."""
    _check(x, kernel)
    work = working_dtype(x)
    kernel, half = kernel.to(work), len(kernel) // 2
    wide = F.pad(x[:, None].to(work), (half, half, half, half), mode="reflect")
    wide = F.conv2d(wide, kernel.view(1, 1, -1, 1))
    return F.conv2d(wide, kernel.view(1, 1, 1, -1))[:, 0]


@triton.jit
def gaussian_blur_kernel(src, kernel, dst, count, length, inner, taps, BLOCK: tl.constexpr):
    """Program (tile of the `count` elements): convolves the middle axis of [.., length, inner]."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = place < count
    here = place // inner % length
    line = place - here * inner
    acc = tl.zeros((BLOCK,), tl.float32)
    for tap in range(0, taps):
        at = tl.abs(here + tap - taps // 2)
        at = tl.where(at >= length, 2 * (length - 1) - at, at)
        acc += tl.load(kernel + tap) * tl.load(src + line + at * inner, mask=there, other=0.0)
    tl.store(dst + place, acc, mask=there)


def gaussian_blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Blur maps with a separable kernel.

    Args:
        x: float32 [B, H, W].
        kernel: float32 [taps], odd, taps // 2 < min(H, W).

    Returns:
        float32 [B, H, W].

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _check(x, kernel)
    check_launch(OP, x, kernel=kernel)
    check_alike(OP, torch.empty(0, dtype=torch.float32), x=x, kernel=kernel)
    x, kernel = x.contiguous(), kernel.contiguous()
    between, out = torch.empty_like(x), torch.empty_like(x)
    _, height, width = x.shape
    grid, count, taps = (cdiv(x.numel(), BLOCK),), x.numel(), len(kernel)
    options = {"BLOCK": BLOCK, "num_warps": 4}
    launch(
        OP, gaussian_blur_kernel, grid, x, kernel, between, count, height, width, taps, **options
    )
    launch(OP, gaussian_blur_kernel, grid, between, kernel, out, count, width, 1, taps, **options)
    return out


def _variant(name: str, inner: int | None) -> Variant:
    sizes = ("count", "length", "taps") if inner else ("count", "length", "inner", "taps")
    return Variant(
        name=f"gaussian_blur_{name}",
        kernel=gaussian_blur_kernel,
        types=dict.fromkeys(("src", "kernel", "dst"), "*fp32") | dict.fromkeys(sizes, "i32"),
        constexprs={"BLOCK": BLOCK} | ({"inner": inner} if inner else {}),
        aligned=("src", "kernel", "dst"),
        grid=("ceil(count / BLOCK)", "1", "1"),
        notes="count = batch * height * width. "
        + ("length = width." if inner else "length = height and inner = width; before columns."),
    )


VARIANTS = [_variant("rows", None), _variant("columns", 1)]
