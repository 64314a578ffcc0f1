"""How unlike the gradients of two images are: gradient magnitude similarity.

Xue et al., "Gradient Magnitude Similarity Deviation" (2014), as InTra (eq. 11) and RIAD use it:
out[p] = 1 - mean_c (2 g_a g_b + c) / (g_a^2 + g_b^2 + c), g the length of the gradient by Prewitt's
filters divided by 3, the border replicated. Computed as mean_c (g_a - g_b)^2 / (g_a^2 + g_b^2 + c),
which is the same and keeps its digits where the images are nearly equal.
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
    check_positive,
    check_shape,
    launch,
    tl,
    triton,
    working_dtype,
)

OP = "gms_map"
BLOCK = 256


def _check(a: Tensor, b: Tensor, c: float) -> None:
    check_shape(OP, "a", a, (None, None, None, None))
    check_shape(OP, "b", b, tuple(a.shape))
    check_positive(OP, "c", c)
    check_alike(OP, a, b=b)


def gms_map_reference(a: Tensor, b: Tensor, c: float) -> Tensor:
    """Compute what `gms_map` computes, in plain PyTorch on any device."""
    _check(a, b, c)
    work = working_dtype(a, b)

    def magnitude(x: Tensor) -> Tensor:
        x = F.pad(x.permute(0, 3, 1, 2).to(work), (1, 1, 1, 1), mode="replicate")
        rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
        columns = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
        across = (rows[..., 2:] - rows[..., :-2]) / 3
        down = (columns[:, :, 2:] - columns[:, :, :-2]) / 3
        # vector_norm has a gradient (zero) where both are zero; sqrt has none.
        return torch.linalg.vector_norm(torch.stack((across, down)), dim=0)

    a, b = magnitude(a), magnitude(b)
    return ((a - b).square() / (a.square() + b.square() + c)).mean(dim=1)


@triton.jit
def squared_gradient(image, above, here, below, left, x, right, there):
    """Squared length of Prewitt's gradient; arguments after the image are offsets of rows, columns.

    Plain differences of nearly equal values come first, so that a flat image's gradient is zero.
    """
    upper_left = tl.load(image + above + left, mask=there, other=0.0).to(tl.float32)
    upper = tl.load(image + above + x, mask=there, other=0.0).to(tl.float32)
    upper_right = tl.load(image + above + right, mask=there, other=0.0).to(tl.float32)
    before = tl.load(image + here + left, mask=there, other=0.0).to(tl.float32)
    after = tl.load(image + here + right, mask=there, other=0.0).to(tl.float32)
    lower_left = tl.load(image + below + left, mask=there, other=0.0).to(tl.float32)
    lower = tl.load(image + below + x, mask=there, other=0.0).to(tl.float32)
    lower_right = tl.load(image + below + right, mask=there, other=0.0).to(tl.float32)
    across = (upper_right - upper_left) + (after - before) + (lower_right - lower_left)
    down = (lower_left - upper_left) + (lower - upper) + (lower_right - upper_right)
    return (across * across + down * down) * (1.0 / 9.0)


@triton.jit
def gms_map_kernel(a, b, out, height, width, c, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Program (tile of pixels, image)."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    there = place < height * width
    y = place // width
    x = place % width
    a += image * height * width * CHANNELS
    b += image * height * width * CHANNELS
    above = tl.maximum(y - 1, 0) * width * CHANNELS
    here = y * width * CHANNELS
    below = tl.minimum(y + 1, height - 1) * width * CHANNELS
    left = tl.maximum(x - 1, 0) * CHANNELS
    right = tl.minimum(x + 1, width - 1) * CHANNELS
    x = x * CHANNELS
    unlike = tl.zeros((BLOCK,), tl.float32)
    for channel in range(CHANNELS):
        aa = squared_gradient(a + channel, above, here, below, left, x, right, there)
        bb = squared_gradient(b + channel, above, here, below, left, x, right, there)
        d = tl.sqrt(aa) - tl.sqrt(bb)
        unlike += d * d / (aa + bb + c)
    tl.store(out + image * height * width + place, unlike * (1.0 / CHANNELS), mask=there)


def gms_map(a: Tensor, b: Tensor, c: float) -> Tensor:
    """Compare the gradients of two images.

    Args:
        a: [B, H, W, channels]; float32, float16 or bfloat16.
        b: likewise.
        c: keeps flat regions from being compared by their noise, positive.

    Returns:
        float32 [B, H, W]: 0 where alike, below 1.

    Raises:
        ValueError: shapes, c or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _check(a, b, c)
    check_launch(OP, a, b=b)
    a, b = a.contiguous(), b.contiguous()
    batch, height, width, channels = a.shape
    out = torch.empty((batch, height, width), dtype=torch.float32, device=a.device)
    launch(
        OP, gms_map_kernel, (cdiv(height * width, BLOCK), batch),
        a, b, out, height, width, c, CHANNELS=channels, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return out


def _variant(dtype: torch.dtype) -> Variant:
    name = TYPES[dtype]
    return Variant(
        name=f"gms_map_{name}_c3",
        kernel=gms_map_kernel,
        types={"a": f"*{name}", "b": f"*{name}", "out": "*fp32"}
        | {"height": "i32", "width": "i32", "c": "fp32"},
        constexprs={"CHANNELS": 3, "BLOCK": BLOCK},
        aligned=("a", "b", "out"),
        grid=("ceil(height * width / BLOCK)", "batch", "1"),
    )


VARIANTS = [_variant(dtype) for dtype in TYPES]
