"""The fused pieces of the models, as plain PyTorch functions.

Each function with a capitalised twin in `adfast.onnx_functions` becomes, while `torch.onnx.export`
traces it, one node of the ONNX domain `adfast`; everywhere else it is the formula below. The
signature (inputs, their order, attributes) is that of the ONNX function.

Shapes: feature maps [B, C, H, W], tokens [B, t, d]. Softmax and reductions run in float32 whatever
autocast does around them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DOMAIN = "adfast"
VERSION = 1


def _node(name: str, inputs: Sequence[Tensor], attrs: dict, shape: Sequence) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}",
        list(inputs),
        attrs=attrs,
        dtype=torch.float32,
        shape=tuple(shape),
        version=VERSION,
    )


def token_attention(x: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Average the pixels of x into g tokens with learned spatial attention (GTrans eq. 1 and 3).

    Args:
        x: features [B, C, H, W].
        weight: one row per token [g, C].
        bias: [g].
        scale: factor on the logits before the softmax over the H * W pixels.

    Returns:
        [B, g, C], each token a weighted mean of the pixels.
    """
    if torch.onnx.is_in_onnx_export():
        shape = (x.shape[0], weight.shape[0], x.shape[1])
        return _node("TokenAttention", (x, weight, bias), {"scale": scale}, shape)
    pixels = x.flatten(2)  # [B, C, HW]
    logits = torch.matmul(weight, pixels) + bias[:, None]
    attention = (scale * logits.float()).softmax(dim=-1).to(pixels.dtype)
    return torch.matmul(attention, pixels.transpose(1, 2))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Scaled dot-product attention, softmax(scale q k^T) v per head.

    Args:
        q: [B, tq, d], or [1, tq, d] where all images ask alike.
        k: [B, tk, d].
        v: [B, tk, dv].
        heads: divides d and dv.
        scale: factor on q k^T.

    Returns:
        [B, tq, dv].
    """
    if torch.onnx.is_in_onnx_export():
        shape = (v.shape[0], q.shape[1], v.shape[2])
        return _node("Attention", (q, k, v), {"heads": heads, "scale": scale}, shape)
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    logits = torch.matmul(q, k.transpose(2, 3))
    weights = (scale * logits.float()).softmax(dim=-1).to(v.dtype)
    return torch.matmul(weights, v).transpose(1, 2).flatten(2)


def projector_attention(
    query_features: Tensor,
    features: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
) -> Tensor:
    """Let every pixel read from a few tokens and add what it read (GTrans eq. 12).

    Args:
        query_features: what the pixels ask with [B, C, H, W].
        features: what the answer is added to [B, C, H, W].
        query_weight: [d, C].
        query_bias: [d].
        key: [B, t, d].
        value: [B, t, C].
        scale: factor on the logits before the softmax over the t tokens.

    Returns:
        [B, C, H, W].
    """
    if torch.onnx.is_in_onnx_export():
        inputs = (query_features, features, query_weight, query_bias, key, value)
        return _node("ProjectorAttention", inputs, {"scale": scale}, features.shape)
    query = torch.matmul(query_weight, query_features.flatten(2)) + query_bias[:, None]
    logits = torch.matmul(key, query)  # [B, t, HW]
    weights = (scale * logits.float()).softmax(dim=1).to(value.dtype)
    return features + torch.matmul(value.transpose(1, 2), weights).unflatten(2, features.shape[2:])


def score_map(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare two feature maps per pixel and as a whole (GTrans eq. 15-17).

    Args:
        a: [B, C, H, W].
        b: [B, C, H, W].

    Returns:
        map [B, 1, H, W] (half the squared distance of each pixel, divided by H * W),
        mse [B] (sum of all squared differences, divided by H * W),
        cos [B] (1 - cosine of the two flattened maps; 0..2). All float32.
    """
    if torch.onnx.is_in_onnx_export():
        batch, _, height, width = a.shape
        return tuple(
            torch.onnx.ops.symbolic_multi_out(
                f"{DOMAIN}::ScoreMap",
                [a, b],
                dtypes=(torch.float32,) * 3,
                shapes=((batch, 1, height, width), (batch,), (batch,)),
                version=VERSION,
            )
        )
    a, b = a.float(), b.float()
    pixels = a.shape[2] * a.shape[3]
    squared = (a - b).square().sum(dim=1, keepdim=True)
    norms = (a.square().sum(dim=(1, 2, 3)) * b.square().sum(dim=(1, 2, 3))).sqrt()
    cosine = (a * b).sum(dim=(1, 2, 3)) / norms.clamp_min(1e-12)
    return 0.5 * squared / pixels, squared.sum(dim=(1, 2, 3)) / pixels, 1 - cosine


def fuse_maps(
    maps: Sequence[Tensor],
    mses: Sequence[Tensor],
    coses: Sequence[Tensor],
    alpha_scale: Tensor,
    mode: int,
    size: tuple[int, int],
) -> Tensor:
    """Resize, weigh and combine the maps of three layers (GTrans eq. 18-19, table 7).

    Args:
        maps: three maps [B, 1, h_l, w_l].
        mses: alpha_mse of the three layers, each [B].
        coses: alpha_cos of the three layers, each [B].
        alpha_scale: lambda of eq. 18 per layer [3].
        mode: 1..6 for P1..P6 of table 7.
        size: height and width of the result.

    Returns:
        [B, 1, height, width].
    """
    if torch.onnx.is_in_onnx_export():
        inputs = [t for layer in zip(maps, mses, coses, strict=True) for t in layer]
        attrs = {"mode": mode, "height": size[0], "width": size[1]}
        shape = (maps[0].shape[0], 1, *size)
        return _node("FuseMaps", [*inputs, alpha_scale], attrs, shape)
    weighted = []
    for i in range(3):
        scaled = alpha_scale[i] * coses[i]
        total = mses[i] + scaled
        # Equal features give 0 / 0; a layer without any difference weighs nothing.
        alpha = torch.where(total > 0, scaled * mses[i] / total, 0.0)
        resized = F.interpolate(maps[i], size=size, mode="bilinear", align_corners=False)
        weighted.append(alpha[:, None, None, None] * resized)
    m1, m2, m3 = weighted
    match mode:
        case 1:
            return m3
        case 2:
            return m1 * m3
        case 3:
            return m2 * m3
        case 4:
            return m1 + m2 + m3
        case 5:
            return m1 * m2 * m3
        case 6:
            return m1 * m3 + m2 * m3
    raise ValueError(f"[fuse_maps] mode is {mode}, expected 1..6")


def gaussian_kernel(sigma: float, radius: int) -> Tensor:
    """Sample a Gaussian at -radius..radius, normalised to sum 1: float32 [2 * radius + 1]."""
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (x / sigma).square())
    return (kernel / kernel.sum()).float()


def gaussian_blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Blur x [B, 1, H, W] with a separable kernel [k], k odd and k // 2 < min(H, W).

    The border is mirrored without repeating the edge pixel ("reflect").
    """
    if torch.onnx.is_in_onnx_export():
        return _node("GaussianBlur", (x, kernel), {"border": "reflect"}, x.shape)
    radius = kernel.shape[0] // 2
    x = F.pad(x, (radius, radius, radius, radius), mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, -1, 1))
    return F.conv2d(x, kernel.view(1, 1, 1, -1))


def window_gather(x: Tensor, index: Tensor) -> Tensor:
    """Put the tokens of every window together (InTra eq. 5): y[b * W + w, j] = x[b, index[w, j]].

    Args:
        x: [B, M, D].
        index: int64 [W, t], each in 0..M-1; the same windows for all images.

    Returns:
        [B * W, t, D], the windows of the first image first.
    """
    if torch.onnx.is_in_onnx_export():
        shape = (x.shape[0] * index.shape[0], index.shape[1], x.shape[2])
        return _node("WindowGather", (x, index), {}, shape)
    # Not x[:, index]: its gradient is many times slower.
    tokens = x.index_select(1, index.flatten())
    return tokens.unflatten(1, index.shape).flatten(0, 1)


def gms_map(a: Tensor, b: Tensor, c: float) -> Tensor:
    """Compare the gradients of two images (InTra eq. 11): 1 - gradient magnitude similarity.

    The magnitudes are those of Prewitt's two filters, divided by 3 as by the similarity's authors;
    beyond the border the image repeats its edge pixels (ours).

    Args:
        a: [B, C, H, W].
        b: [B, C, H, W].
        c: keeps flat regions from being compared by their noise; 0.0026 for values in [0, 1].

    Returns:
        [B, 1, H, W], float32, averaged over the channels: 0 where alike, below 1.
    """
    if torch.onnx.is_in_onnx_export():
        return _node("GmsMap", (a, b), {"c": c}, (a.shape[0], 1, *a.shape[2:]))
    a, b = _gradient_magnitude(a.float()), _gradient_magnitude(b.float())
    similarity = (2 * a * b + c) / (a.square() + b.square() + c)
    return 1 - similarity.mean(dim=1, keepdim=True)


def _gradient_magnitude(x: Tensor) -> Tensor:
    # Sums of slices, not a convolution, which autocast would compute in bfloat16.
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    columns = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    horizontal = (rows[..., 2:] - rows[..., :-2]) / 3
    vertical = (columns[:, :, 2:] - columns[:, :, :-2]) / 3
    # vector_norm has a gradient (zero) where both are zero; sqrt has none.
    return torch.linalg.vector_norm(torch.stack((horizontal, vertical)), dim=0)


def calibrate_map(x: Tensor, mean: Tensor, mode: str) -> Tensor:
    """Measure how far a map is from that of normal images (InTra eq. 17).

    Args:
        x: [B, 1, H, W].
        mean: mean of the maps of the training images [1, 1, H, W].
        mode: "square" for (x - mean)^2, "absolute" for abs(x - mean).

    Returns:
        [B, 1, H, W].
    """
    if mode not in ("square", "absolute"):
        raise ValueError(f"[calibrate_map] mode is {mode!r}, expected 'square' or 'absolute'")
    if torch.onnx.is_in_onnx_export():
        return _node("CalibrateMap", (x, mean), {"mode": mode}, x.shape)
    difference = x - mean
    return difference.square() if mode == "square" else difference.abs()


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """Lay the channels of every cell out as block * block pixels.

    Args:
        x: [B, block * block * C, H, W], channels in the order row, column, C (ONNX's mode "DCR").
        block: side of a cell in pixels.

    Returns:
        [B, C, H * block, W * block].
    """
    batch, channels, height, width = x.shape
    shape = (batch, channels // block**2, height * block, width * block)
    if torch.onnx.is_in_onnx_export():
        attrs = {"blocksize": block, "mode": "DCR"}
        return torch.onnx.ops.symbolic(
            "::DepthToSpace", [x], attrs, dtype=torch.float32, shape=shape
        )
    x = x.unflatten(1, (block, block, -1)).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(shape)


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
    """Attention of every block of pixels to its neighbourhood (HaloNet eq. 2-3, HaloAE 3.1).

    The queries of a block are its block * block pixels, the keys those of its window, which has
    `halo` more pixels on every side: u = block + 2 * halo. The logit of query a and key b is
    scale * q_a . (k_b + rows[row_b - row_a + u - 1] + columns[column_b - column_a + u - 1]), with a
    counted from the block's corner and b from the window's: the first 2 * halo of the 2 * u - 1
    rows of a table are never read. Outside the map k and v are zero.

    Args:
        q: [B, heads * d, H, W], H and W multiples of block.
        k: [B, heads * d, H, W].
        v: [B, heads * dv, H, W].
        rows: [2 * u - 1, d], alike for all heads.
        columns: of the same shape.
        block: side of a block.
        halo: pixels around it.
        heads: of the attention; the channels of a head lie together.
        scale: factor on the logits.
        legacy_mask: False leaves the keys outside the map out. True does what the code published
            with the HaloAE paper does, which masks the others: a block whose window lies inside
            the map averages it, a block at the border sees nothing but the zeros around the map.

    Returns:
        [B, heads * dv, H, W].
    """
    if torch.onnx.is_in_onnx_export():
        attrs = {"block": block, "halo": halo, "heads": heads, "scale": scale}
        attrs |= {"legacy_mask": int(legacy_mask)}
        return _node("HaloAttention", (q, k, v, rows, columns), attrs, v.shape)
    height, width = q.shape[2:]
    if height % block or width % block:
        raise ValueError(
            f"[halo_attention] the map is {height}x{width}, expected sides divisible by the block "
            f"of {block}"
        )
    window = block + 2 * halo  # u

    def windows(x: Tensor) -> Tensor:
        """[B, heads * c, H, W] -> [B, heads, blocks, window * window, c]."""
        x = F.pad(x, (halo, halo, halo, halo)).unflatten(1, (heads, -1))
        x = x.unfold(3, window, block).unfold(4, window, block)  # [B, heads, c, m, n, w, w]
        return x.permute(0, 1, 3, 4, 5, 6, 2).flatten(4, 5).flatten(2, 3)

    steps = torch.arange(window, device=q.device)
    distances = steps - steps[:block, None] + window - 1  # [block, window]
    # [B, heads, m, n, block, block, d]
    q = q.unflatten(3, (-1, block)).unflatten(2, (-1, block)).unflatten(1, (heads, -1))
    q = scale * q.permute(0, 1, 3, 5, 4, 6, 2)
    # What a query gives to each row and column of its window stands beside it, and beside each key
    # which row and column is its own: so one product makes the logits, and no sum as large follows.
    by_row = torch.einsum("bhmnrcd,rkd->bhmnrck", q, rows[distances])
    by_column = torch.einsum("bhmnrcd,ckd->bhmnrck", q, columns[distances])
    queries = torch.cat((q, by_row.to(q.dtype), by_column.to(q.dtype)), dim=-1)
    one = torch.eye(window, dtype=k.dtype, device=k.device)
    places = torch.cat((one.repeat_interleave(window, dim=0), one.repeat(window, 1)), dim=1)
    keys = windows(k)
    keys = torch.cat((keys, places.expand(*keys.shape[:3], -1, -1)), dim=-1)
    logits = torch.matmul(queries.flatten(4, 5).flatten(2, 3), keys.transpose(3, 4)).float()
    inside = F.pad(one.new_ones(height, width), (halo, halo, halo, halo)) > 0
    inside = inside.unfold(0, window, block).unfold(1, window, block).flatten(2, 3).flatten(0, 1)
    masked = inside if legacy_mask else ~inside  # [blocks, window * window]
    # In place: at the paper's size it is 30 MB for each image and stage.
    logits.masked_fill_(masked[:, None], torch.finfo(torch.float32).min)
    read = torch.matmul(logits.softmax(dim=-1).to(v.dtype), windows(v))
    read = read.unflatten(3, (block, block)).unflatten(2, (-1, width // block))
    return read.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4).flatten(1, 2)
