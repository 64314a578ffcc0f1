"""The maps of three layers upsampled, weighted and combined (GTrans eq. 18-19, table 7).

Layer l's map, bilinearly upsampled with corners not aligned, is weighted by
alpha_l = lambda_l cos_l mse_l / (mse_l + lambda_l cos_l), 0 when that denominator is 0. With M_l
the weighted map: mode 1: M3; 2: M1 M3; 3: M2 M3; 4: M1 + M2 + M3; 5: M1 M2 M3; 6: M1 M3 + M2 M3.
"""

from collections.abc import Sequence

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

OP = "fuse_maps"
LAYERS = 3


def _check(
    maps: Sequence[Tensor],
    mses: Sequence[Tensor],
    coses: Sequence[Tensor],
    alpha_scale: Tensor,
    mode: int,
    size: tuple[int, int],
) -> None:
    for name, tensors in {"maps": maps, "mses": mses, "coses": coses}.items():
        if len(tensors) != LAYERS:
            raise ValueError(f"[{OP}] there are {len(tensors)} {name}, expected {LAYERS}")
    for i in range(LAYERS):
        check_shape(OP, f"maps[{i}]", maps[i], (len(maps[0]), None, None))
        check_shape(OP, f"mses[{i}]", mses[i], (len(maps[0]),))
        check_shape(OP, f"coses[{i}]", coses[i], (len(maps[0]),))
    check_shape(OP, "alpha_scale", alpha_scale, (LAYERS,))
    if mode not in range(1, 7):
        raise ValueError(f"[{OP}] mode is {mode}, expected 1..6")
    if min(size) < 1:
        raise ValueError(f"[{OP}] size is {tuple(size)}, expected positive numbers")


def fuse_maps_reference(
    maps: Sequence[Tensor],
    mses: Sequence[Tensor],
    coses: Sequence[Tensor],
    alpha_scale: Tensor,
    mode: int,
    size: tuple[int, int],
) -> Tensor:
    """Compute what `fuse_maps` computes, in plain PyTorch on any device."""
    _check(maps, mses, coses, alpha_scale, mode, size)
    work = working_dtype(*maps)
    weighted = []
    for i in range(LAYERS):
        mse, scaled = mses[i].to(work), alpha_scale[i].to(work) * coses[i].to(work)
        alpha = torch.where(mse + scaled == 0, 0.0, scaled * mse / (mse + scaled))
        wide = maps[i][:, None].to(work)
        resized = F.interpolate(wide, size=tuple(size), mode="bilinear", align_corners=False)
        weighted.append(alpha[:, None, None] * resized[:, 0])
    m1, m2, m3 = weighted
    if mode == 4:
        return m1 + m2 + m3
    if mode == 6:
        return m1 * m3 + m2 * m3
    return {1: m3, 2: m1 * m3, 3: m2 * m3, 5: m1 * m2 * m3}[mode]


@triton.jit
def layer(score, mse, cos, alpha_scale, image, map_height, map_width, y, x, height, width, there):
    """Pixels (y, x) of one layer's upsampled and weighted map."""
    mse = tl.load(mse + image).to(tl.float64)
    scaled = tl.load(alpha_scale).to(tl.float64) * tl.load(cos + image).to(tl.float64)
    total = mse + scaled
    none = total == 0.0
    alpha = tl.where(none, 0.0, scaled * mse / tl.where(none, 1.0, total)).to(tl.float32)
    row = tl.maximum((y.to(tl.float32) + 0.5) * (map_height / height) - 0.5, 0.0)
    column = tl.maximum((x.to(tl.float32) + 0.5) * (map_width / width) - 0.5, 0.0)
    top = tl.minimum(row.to(tl.int32), map_height - 1)
    left = tl.minimum(column.to(tl.int32), map_width - 1)
    below = tl.minimum(top + 1, map_height - 1)
    right = tl.minimum(left + 1, map_width - 1)
    down = row - top.to(tl.float32)
    across = column - left.to(tl.float32)
    score += image * map_height * map_width
    top_left = tl.load(score + top * map_width + left, mask=there, other=0.0)
    top_right = tl.load(score + top * map_width + right, mask=there, other=0.0)
    below_left = tl.load(score + below * map_width + left, mask=there, other=0.0)
    below_right = tl.load(score + below * map_width + right, mask=there, other=0.0)
    upper = top_left * (1.0 - across) + top_right * across
    lower = below_left * (1.0 - across) + below_right * across
    return alpha * (upper * (1.0 - down) + lower * down)


@triton.jit
def fuse_maps_kernel(
    map1,
    map2,
    map3,
    mse1,
    mse2,
    mse3,
    cos1,
    cos2,
    cos3,
    alpha_scale,
    out,
    height1,
    width1,
    height2,
    width2,
    height3,
    width3,
    height,
    width,
    MODE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (tile of output pixels, image). A layer that the mode leaves out is not read."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    there = place < height * width
    y = place // width
    x = place % width
    m3 = layer(
        map3, mse3, cos3, alpha_scale + 2, image, height3, width3, y, x, height, width, there
    )
    fused = m3
    if MODE == 2 or MODE == 4 or MODE == 5 or MODE == 6:
        m1 = layer(
            map1, mse1, cos1, alpha_scale, image, height1, width1, y, x, height, width, there
        )
        if MODE == 2 or MODE == 5 or MODE == 6:
            fused = m1 * fused
        else:
            fused = m1 + fused
    if MODE == 3 or MODE == 4 or MODE == 5 or MODE == 6:
        m2 = layer(
            map2, mse2, cos2, alpha_scale + 1, image, height2, width2, y, x, height, width, there
        )
        if MODE == 3 or MODE == 5:
            fused = m2 * fused
        elif MODE == 4:
            fused = fused + m2
        else:
            fused = fused + m2 * m3
    tl.store(out + image * height * width + place, fused, mask=there)


BLOCK = 256


def fuse_maps(
    maps: Sequence[Tensor],
    mses: Sequence[Tensor],
    coses: Sequence[Tensor],
    alpha_scale: Tensor,
    mode: int,
    size: tuple[int, int],
) -> Tensor:
    """Upsample, weigh and combine the maps of three layers.

    Args:
        maps: three float32 maps [B, h_l, w_l].
        mses: alpha_mse of the three layers, each float32 [B].
        coses: alpha_cos of the three layers, each float32 [B].
        alpha_scale: lambda of eq. 18 per layer, float32 [3].
        mode: 1..6 for P1..P6 of table 7.
        size: height and width of the result.

    Returns:
        float32 [B, height, width].

    Raises:
        ValueError: shapes, mode, size or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _check(maps, mses, coses, alpha_scale, mode, size)
    named = {f"maps[{i}]": t for i, t in enumerate(maps)}
    named |= {f"mses[{i}]": t for i, t in enumerate(mses)}
    named |= {f"coses[{i}]": t for i, t in enumerate(coses)}
    check_launch(OP, alpha_scale, **named)
    check_alike(OP, torch.empty(0, dtype=torch.float32), alpha_scale=alpha_scale, **named)
    (height, width), batch = size, len(maps[0])
    out = torch.empty((batch, height, width), dtype=torch.float32, device=maps[0].device)
    sizes = [side for m in maps for side in m.shape[1:]]
    tensors = [t.contiguous() for t in (*maps, *mses, *coses, alpha_scale)]
    launch(
        OP, fuse_maps_kernel, (cdiv(height * width, BLOCK), batch),
        *tensors, out, *sizes, height, width, MODE=mode, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return out


def _variant(mode: int) -> Variant:
    layers = range(1, LAYERS + 1)
    pointers = [f"{name}{i}" for name in ("map", "mse", "cos") for i in layers]
    pointers += ["alpha_scale", "out"]
    sizes = [f"{name}{i}" for i in layers for name in ("height", "width")] + ["height", "width"]
    return Variant(
        name=f"fuse_maps_mode{mode}",
        kernel=fuse_maps_kernel,
        types=dict.fromkeys(pointers, "*fp32") | dict.fromkeys(sizes, "i32"),
        constexprs={"MODE": mode, "BLOCK": BLOCK},
        aligned=("out",),
        grid=("ceil(height * width / BLOCK)", "batch", "1"),
    )


VARIANTS = [_variant(mode) for mode in range(1, 7)]
