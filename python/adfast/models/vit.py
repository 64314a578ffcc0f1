"""ViT trunks by their timm name, cut after the last block that is used, and their weights.

A trunk is timm's `VisionTransformer` without final norm and classifier, so its keys are timm's.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adfast.errors import ModelError
from adfast.models import layers
from adfast.models.backbones import import_timm, read_tensors, stop_retries_when_offline
from adfast.models.state import misfit

# Parts of a classifier that follow the blocks: no feature needs them.
TAIL = ("norm", "fc_norm", "head", "head_dist", "pre_logits", "attn_pool")


class SelfAttention(nn.Module):
    """timm's multi-head self-attention, with its keys, as one `adfast` node in ONNX."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.heads, self.scale = attention.num_heads, attention.scale

    def forward(self, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        """Let tokens x [B, N, D] attend to each other; returns [B, N, D].

        timm's blocks hand on a mask; here there never is one.
        """
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # within each, the heads lie one after the other
        if torch.onnx.is_in_onnx_export():
            return self.proj(layers.attention(q, k, v, self.heads, self.scale))
        # PyTorch's fused kernel: N * N weights per head and image would be 16 MB of a ViT-B at 384.
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(attended.transpose(1, 2).flatten(2))


def create_vit(
    name: str, size: tuple[int, int], depth: int, *, pretrained: bool = False
) -> nn.Module:
    """Build a ViT trunk, to be asked for its features by `vit_features`.

    Args:
        name: timm's name of a VisionTransformer, with or without the tag of its weights.
        size: height and width of its input; learned positions are resampled to it.
        depth: blocks to keep.
        pretrained: fetch the tag's weights from the hub (needs a network or a filled cache).

    Raises:
        ModelError: no such ViT, fewer blocks, a size that patches do not tile, a kind of attention
            the ONNX function lacks, or the weights cannot be fetched.
    """
    timm = import_timm()
    tag = _check(timm, name, size, depth)
    if pretrained:
        stop_retries_when_offline()
    try:
        trunk = timm.create_model(tag, pretrained=pretrained, img_size=size, num_classes=0)
    except Exception as error:
        if not pretrained:
            raise
        # Offline the hub client raises one of many types; the remedy is the same for all of them.
        raise ModelError(
            f"cannot fetch the weights {tag} from the hub. On a machine with a network, download "
            f"model.safetensors of https://huggingface.co/timm/{tag}, copy it here and pass "
            "--weights FILE; --weights none trains against random features, for trying out only. "
            f"The hub's client says: {type(error).__name__}: {error}"
        ) from error
    trunk.blocks = trunk.blocks[:depth]
    for part in TAIL:
        if isinstance(getattr(trunk, part, None), nn.Module):
            setattr(trunk, part, nn.Identity())
    for block in trunk.blocks:
        block.attn = SelfAttention(block.attn)
    return trunk.requires_grad_(False).eval()


def _check(timm, name: str, size: tuple[int, int], depth: int) -> str:
    """Return the name with its tag; refuse, before anything is fetched, what cannot be used."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models("*vit*"), 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ModelError(f"backbone is {name!r}, expected the name of a ViT of timm{hint}")
    try:
        with torch.device("meta"):
            trunk = timm.create_model(name)
    except RuntimeError as error:  # a tag that timm does not know
        raise ModelError(f"backbone is {name!r}: {error}") from error
    kind = type(trunk).__name__
    if not isinstance(trunk, timm.models.VisionTransformer):
        raise ModelError(f"backbone {name} is a {kind}, expected a plain VisionTransformer")
    for block in trunk.blocks:
        attention = getattr(block, "attn", None)
        extras = ("q_norm", "k_norm", "norm")
        if (
            type(attention) is not timm.layers.Attention
            or attention.gate is not None
            or not all(isinstance(getattr(attention, e), nn.Identity) for e in extras)
        ):
            raise ModelError(
                f"backbone {name} has attention with norms, gates or rotations; only the plain "
                "one can be exported. Choose another ViT, for instance vit_base_patch16_384"
            )
    patch = trunk.patch_embed.patch_size
    if any(side % p for side, p in zip(size, patch, strict=True)):
        raise ModelError(
            f"backbone {name} sees patches of {patch[0]}x{patch[1]}: they do not tile a crop of "
            f"{size[0]}x{size[1]}"
        )
    if depth > len(trunk.blocks):
        raise ModelError(f"backbone {name} has {len(trunk.blocks)} blocks, layer {depth} is none")
    return _tagged(trunk)


def _tagged(trunk: nn.Module) -> str:
    """Return timm's name of a trunk's weights: architecture.tag, or the architecture alone."""
    known = trunk.pretrained_cfg
    return ".".join(part for part in (known["architecture"], known.get("tag")) if part)


def vit_features(trunk: nn.Module, image: Tensor, chosen: Sequence[int]) -> list[Tensor]:
    """Run a trunk of `create_vit`.

    Args:
        trunk: the ViT.
        image: [B, 3, H, W], normalised.
        chosen: 0 is the output of the patch projection, before positions are added; i is the output
            of block i, counted from 1.

    Returns:
        One [B, N, D] per chosen layer, the N patches in raster order, without class tokens.
    """
    patches = trunk.patch_embed(image)
    features = {0: patches}
    x = trunk.norm_pre(trunk._pos_embed(patches))
    for i, block in enumerate(trunk.blocks, 1):
        x = block(x)
        features[i] = x
    first = trunk.num_prefix_tokens
    return [features[i] if i == 0 else features[i][:, first:] for i in chosen]


def load_vit_state(trunk: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a timm ViT's state dict into a trunk of `create_vit`.

    The classifier, the final norm and blocks past the last one used are ignored; a learned position
    table of another grid is resampled as timm does (bicubic, antialias).

    Raises:
        ModelError: lists the keys that are missing, unknown or of another shape.
    """
    wanted = trunk.state_dict()
    given = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        block = key.split(".")[1] if key.startswith("blocks.") else ""
        unused = block.isdigit() and int(block) >= len(trunk.blocks)
        if not unused and key.partition(".")[0] not in TAIL:
            given[key] = value
    if "pos_embed" in given and "pos_embed" in wanted:
        given["pos_embed"] = _resample_positions(trunk, given["pos_embed"])
    if problems := misfit(wanted, given):
        raise ModelError(f"weights {source} do not fit the ViT: {problems}")
    trunk.load_state_dict(given)


def _resample_positions(trunk: nn.Module, table: Tensor) -> Tensor:
    """Fit a table [1, prefix + side * side, D] to the trunk's grid; others are left as they are."""
    from timm.layers import resample_abs_pos_embed

    prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    patches = table.shape[1] - prefix if table.ndim == 3 else 0
    if table.shape == trunk.pos_embed.shape or patches < 1 or math.isqrt(patches) ** 2 != patches:
        return table
    grid = list(trunk.patch_embed.grid_size)
    return resample_abs_pos_embed(table, new_size=grid, num_prefix_tokens=prefix)


def load_vit(name: str, weights: str, size: tuple[int, int], depth: int) -> tuple[nn.Module, dict]:
    """Build a trunk and fill it.

    Args:
        name: see `create_vit`.
        weights: a file of timm's keys (see `read_tensors`), "hub" or "none" (random).
        size: see `create_vit`.
        depth: see `create_vit`.

    Returns:
        The trunk and where its weights came from, {"source": str, "sha256": str (files only)}.
    """
    if weights == "hub":
        trunk = create_vit(name, size, depth, pretrained=True)
        return trunk, {"source": f"hub:{_tagged(trunk)}"}
    trunk = create_vit(name, size, depth)
    if weights == "none":
        return trunk, {"source": "none (random)"}
    load_vit_state(trunk, read_tensors(weights), str(weights))
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return trunk, {"source": Path(weights).name, "sha256": digest}
