"""The fused pieces of the models for PyTorch: Triton kernels on CUDA, plain formulas elsewhere.

>>> from adfast import ops                                                  # doctest: +SKIP
>>> y = ops.halo_attention(q, k, v, rows, columns, 12, 2, 8, 0.25)          # doctest: +SKIP

Tensors on a CUDA device in float32, float16 or bfloat16 go to the kernels of `kernels/triton`, if
Triton is installed and the sizes fit; all others to the plain formula that stands beside each
kernel. Feature maps are [B, C, H, W], tokens [B, t, d], as in `adfast.models.layers`. The kernels
read feature maps channels-last (`torch.channels_last`); maps stored otherwise are copied first, and
results are channels-last. Sums, softmax and statistics are float32 whatever the dtype.

Every function has a gradient. Behind a kernel, backward computes the plain formula once more, in
float32, and differentiates that: a forward pass keeps its inputs alone, a backward pass takes the
time and memory of the plain formula.

All raise ValueError where shapes, sizes or devices do not fit and TypeError where dtypes do not,
in the words op, argument, got, expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from adfast import triton as kernels

__all__ = [
    "attention",
    "fuse_maps",
    "gaussian_blur",
    "gms_map",
    "halo_attention",
    "layer_norm",
    "projector_attention",
    "projector_score_map",
    "score_map",
    "token_attention",
]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Scaled dot-product attention, softmax(scale q k^T) v per head (FlashAttention).

    Args:
        q: [B, tq, d], or [1, tq, d] where all images ask alike.
        k: [B, tk, d].
        v: [B, tk, dv].
        heads: divides d and dv; the channels of a head lie together.
        scale: factor on the logits, positive.

    Returns:
        [B, tq, dv] in the dtype of v.
    """
    options = {"heads": heads, "scale": scale}
    return _run("attention", {"q": q, "k": k, "v": v}, options)


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

    With u = block + 2 * halo, a counted from the block's corner and b from the window's, the logit
    of query a and key b is scale * q_a . (k_b + rows[row_b - row_a + u - 1] + columns[column_b -
    column_a + u - 1]).

    Args:
        q: [B, heads * d, H, W], H and W multiples of block.
        k: [B, heads * d, H, W].
        v: [B, heads * dv, H, W].
        rows: [2 * u - 1, d], alike for all heads; best float32.
        columns: of the same shape.
        block: side of a block of queries.
        halo: pixels around it that its queries also see.
        heads: of the attention; the channels of a head lie together.
        scale: factor on the logits, positive.
        legacy_mask: False leaves the keys outside the map out. True leaves out those inside, as the
            code published with HaloAE does: a block whose window lies inside the map averages it, a
            block at the border sees nothing but the zeros around the map.

    Returns:
        [B, heads * dv, H, W] in the dtype of v, channels-last.
    """
    options = {"block": block, "halo": halo, "heads": heads, "scale": scale}
    options |= {"legacy_mask": legacy_mask}
    tensors = _last("halo_attention", q=q, k=k, v=v)
    tensors |= {"rows": rows, "columns": columns}
    return _run("halo_attention", tensors, options).permute(0, 3, 1, 2)


def token_attention(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Average the pixels of x into g tokens with learned spatial attention (GTrans eq. 1 and 3).

    Args:
        x: features [B, C, H, W].
        weight: one row per token [g, C].
        bias: [g] or None, and never read: it adds the same to all logits of a token, which the
            softmax over the pixels takes out again. It gets no gradient.
        scale: factor on the logits before the softmax over the H * W pixels, positive.

    Returns:
        [B, g, C] in the dtype of x, each token a weighted mean of the pixels.
    """
    pixels = _last("token_attention", x=x)["x"].flatten(1, 2)
    return _run("token_attention", {"x": pixels, "weight": weight}, {"scale": scale})


def projector_attention(
    x: Tensor,
    residual: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Let every pixel read from a few tokens and add what it read (GTrans eq. 12).

    As the engine has it, with the projection of the queries folded into the keys: where a pixel
    asks with W x + b of keys K, key is K W and key_bias is K b.

    Args:
        x: what the pixels ask with [B, C, H, W].
        residual: what the answer is added to [B, C, H, W].
        key: [B, t, C].
        value: [B, t, C].
        scale: factor on the logits before the softmax over the t tokens, positive.
        key_bias: [B, t] or None, added to the logits before they are scaled.

    Returns:
        [B, C, H, W] in the dtype of x, channels-last.
    """
    tensors = _projector("projector_attention", x, residual, key, value, key_bias)
    y = _run("projector_attention", tensors, {"scale": scale})
    return y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def projector_score_map(
    x: Tensor,
    residual: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    key_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """score_map(x, projector_attention(x, residual, ...)) without the features between them.

    Arguments as `projector_attention` has them, results as `score_map`.
    """
    tensors = _projector("projector_score_map", x, residual, key, value, key_bias)
    score, mse, cos = _run("projector_score_map", tensors, {"scale": scale})
    return score.unflatten(1, x.shape[2:])[:, None], mse, cos


def score_map(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare two feature maps per pixel and as a whole (GTrans eq. 15-17).

    Computed from the difference, so that nearly equal maps keep their digits.

    Args:
        a: [B, C, H, W].
        b: [B, C, H, W].

    Returns:
        map [B, 1, H, W] (half the squared distance of each pixel, divided by H * W),
        mse [B] (sum of all squared differences, divided by H * W),
        cos [B] (1 - cosine of the two flattened maps; 0..2). All float32.
    """
    tensors = {name: t.flatten(1, 2) for name, t in _last("score_map", a=a, b=b).items()}
    score, mse, cos = _run("score_map", tensors, {})
    return score.unflatten(1, a.shape[2:])[:, None], mse, cos


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
        maps: three maps [B, 1, h_l, w_l], float32.
        mses: alpha_mse of the three layers, each [B], float32.
        coses: alpha_cos of the three layers, each [B], float32.
        alpha_scale: lambda of eq. 18 per layer [3], float32.
        mode: 1..6 for P1..P6 of table 7.
        size: height and width of the result.

    Returns:
        [B, 1, height, width], float32.
    """
    planes = [_plane("fuse_maps", f"maps[{i}]", m) for i, m in enumerate(maps)]
    lists = {"maps": planes, "mses": mses, "coses": coses}
    tensors = {f"{name}.{i}": t for name, group in lists.items() for i, t in enumerate(group)}
    options = {"mode": mode, "size": tuple(size)}
    return _run("fuse_maps", tensors | {"alpha_scale": alpha_scale}, options)[:, None]


def gaussian_blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Blur x [B, 1, H, W] with a separable kernel [k], k odd and k // 2 < min(H, W); float32.

    The border is mirrored without repeating the edge pixel ("reflect").
    """
    tensors = {"x": _plane("gaussian_blur", "x", x), "kernel": kernel}
    return _run("gaussian_blur", tensors, {})[:, None]


def layer_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    residual: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gamma + beta (+ residual) along the last axis.

    The residual is added behind the norm, as GTrans's eq. 6 and 10 have it. Two passes: a mean much
    larger than the deviation costs no digits.

    Args:
        x: [..., width].
        gamma: [width].
        beta: [width].
        residual: of the shape of x, or None.
        eps: added to the variance, positive.

    Returns:
        Of the shape and dtype of x.
    """
    tensors = {"x": x.flatten(0, -2), "gamma": gamma, "beta": beta}
    tensors |= {"residual": None if residual is None else residual.flatten(0, -2)}
    return _run("layer_norm", tensors, {"eps": eps}).view(x.shape)


def gms_map(a: Tensor, b: Tensor, c: float) -> Tensor:
    """Compare the gradients of two images (InTra eq. 11): 1 - gradient magnitude similarity.

    Args:
        a: [B, C, H, W].
        b: [B, C, H, W].
        c: keeps flat regions from being compared by their noise; 0.0026 for values in [0, 1].

    Returns:
        [B, 1, H, W], float32, averaged over the channels: 0 where alike, below 1.
    """
    return _run("gms_map", _last("gms_map", a=a, b=b), {"c": c})[:, None]


def _projector(
    op: str, x: Tensor, residual: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None
) -> dict[str, Tensor | None]:
    maps = {name: t.flatten(1, 2) for name, t in _last(op, x=x, residual=residual).items()}
    return maps | {"key": key, "value": value, "key_bias": key_bias}


def _last(op: str, **maps: Tensor) -> dict[str, Tensor]:
    """[B, C, H, W] -> [B, H, W, C]."""
    for name, x in maps.items():
        if x.dim() != 4:
            raise ValueError(f"[{op}] {name} has shape {list(x.shape)}, expected [B, C, H, W]")
    return {name: x.permute(0, 2, 3, 1) for name, x in maps.items()}


def _plane(op: str, name: str, x: Tensor) -> Tensor:
    """[B, 1, H, W] -> [B, H, W]."""
    if x.dim() != 4 or x.shape[1] != 1:
        raise ValueError(f"[{op}] {name} has shape {list(x.shape)}, expected [B, 1, H, W]")
    return x[:, 0]


def _run(op: str, tensors: Mapping[str, Tensor | None], options: Mapping[str, Any]) -> Any:
    """Call the kernel where there is one for these tensors, else its reference."""
    first = next(iter(tensors.values()))
    if not (first.is_cuda and kernels.AVAILABLE and first.dtype in kernels.TYPES):
        return _call(getattr(kernels, f"{op}_reference"), tensors, options)
    try:
        learns = any(t is not None and t.requires_grad for t in tensors.values())
        if learns and torch.is_grad_enabled():
            return _Recomputed.apply(op, tuple(tensors), options, *tensors.values())
        return _call(getattr(kernels, op), tensors, options)
    except kernels.TooLarge:
        return _call(getattr(kernels, f"{op}_reference"), tensors, options)


def _call(
    function: Callable[..., Any], tensors: Mapping[str, Tensor | None], options: Mapping[str, Any]
) -> Any:
    """Call with the tensors by name; "maps.0", "maps.1", ... are one list."""
    arguments: dict[str, Any] = {}
    for name, tensor in tensors.items():
        name, dot, _ = name.partition(".")
        if dot:
            arguments.setdefault(name, []).append(tensor)
        else:
            arguments[name] = tensor
    return function(**arguments, **options)


class _Recomputed(torch.autograd.Function):
    """A kernel forward; backward through its reference, computed again from the inputs."""

    @staticmethod
    def forward(ctx, op, names, options, *tensors):
        ctx.call = op, names, options
        ctx.save_for_backward(*tensors)
        return _call(getattr(kernels, op), dict(zip(names, tensors, strict=True)), options)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        op, names, options = ctx.call
        needed = ctx.needs_input_grad[3:]
        tensors = [
            t if t is None else t.detach().requires_grad_(wanted)
            for t, wanted in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad():
            named = dict(zip(names, tensors, strict=True))
            results = _call(getattr(kernels, f"{op}_reference"), named, options)
        results = results if isinstance(results, tuple) else (results,)
        inputs = [t for t, wanted in zip(tensors, needed, strict=True) if wanted]
        found = iter(torch.autograd.grad(results, inputs, gradients, allow_unused=True))
        return None, None, None, *(next(found) if wanted else None for wanted in needed)
