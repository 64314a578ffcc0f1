"""GTrans: "Multiresolution Feature Guidance Based Transformer for Anomaly Detection" (Yan et al.).

A frozen ImageNet trunk (AGN) and an equal one trained from scratch on good images (Trans) look at
the same image. Tokens of both, exchanged by a small transformer (TFM), help Trans to imitate AGN's
features. It learns that for normal images only, so where the two differ the image is anomalous.

Equation numbers are the paper's. Feature maps are [B, C, H, W], tokens [B, t, d] (the paper writes
tokens as columns, [d, t]). "Ours" marks what the paper leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adfast.models import layers
from adfast.models.backbones import create_backbone, load_backbone
from adfast.models.detector import Config, Detector

# Trunk: channels of its critical layers, the outputs of layer1, layer2 and layer3.
BACKBONES = {
    "resnet18": (64, 128, 256),
    "resnet34": (64, 128, 256),
    "wide_resnet50_2": (256, 512, 1024),
}
LEVELS = (1, 2, 3)
STRIDES = (4, 8, 16)
FUSIONS = ("P1", "P2", "P3", "P4", "P5", "P6")


@dataclass(frozen=True)
class GTransConfig(Config):
    """Every choice of the model. JSON-friendly through `to_dict` and `from_dict`.

    Attributes:
        backbone: trunk of AGN and Trans, a key of `BACKBONES`.
        groups: tokens per layer, g.
        dim: width of the tokens, d.
        blocks: encoder blocks and decoder blocks of the TFM, S.
        mapper_source: tokens the mapper reads, "decoder" (D_out) or "encoder" (E_out); the paper
            names both, the decoder would be dead code with the second (ours: decoder).
        fusion: how the three maps are combined, "P1".."P6" of table 7.
        alpha_scale: lambda of eq. 18 per layer; None measures it on the validation images as the
            ratio of mean alpha_mse to mean alpha_cos (ours).
        resize: height and width every frame is stretched to.
        crop: height and width of the centre crop the network sees.
        mean: subtracted from RGB in 0..1.
        std: divides after that.
        gaussian_sigma: of the final blur in pixels of the crop; None is 4 at 224, growing in
            proportion (ours).
        gaussian_truncate: radius of the blur's kernel in sigmas.
    """

    backbone: str = "resnet34"
    groups: int = 8
    dim: int = 256
    blocks: int = 2
    mapper_source: str = "decoder"
    fusion: str = "P6"
    alpha_scale: tuple[float, float, float] | None = None
    resize: tuple[int, int] = (256, 256)
    crop: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    gaussian_sigma: float | None = None
    gaussian_truncate: float = 4.0

    name = "gtrans"

    def __post_init__(self) -> None:
        """Resolve defaults and refuse values that cannot work.

        Raises:
            ModelError: names the field, its value and what it may be.
        """
        self.make_tuples("alpha_scale", "resize", "crop", "mean", "std")
        if self.gaussian_sigma is None:
            object.__setattr__(self, "gaussian_sigma", 4.0 * min(self.crop) / 224)
        self.check(
            {
                "backbone": (self.backbone in BACKBONES, "one of " + ", ".join(BACKBONES)),
                "groups": (self.groups >= 1, "at least 1"),
                "dim": (self.dim >= 1, "at least 1"),
                "blocks": (self.blocks >= 1, "at least 1"),
                "mapper_source": (
                    self.mapper_source in ("decoder", "encoder"),
                    "decoder or encoder",
                ),
                "fusion": (self.fusion in FUSIONS, "one of " + ", ".join(FUSIONS)),
                "alpha_scale": (
                    self.alpha_scale is None
                    or (len(self.alpha_scale) == 3 and min(self.alpha_scale) > 0),
                    "three positive numbers",
                ),
                "gaussian_sigma": (self.gaussian_sigma > 0, "positive"),
                "gaussian_truncate": (self.gaussian_truncate > 0, "positive"),
            }
        )
        self.check_frame(smallest=32)

    @property
    def gaussian_radius(self) -> int:
        """Radius of the blur in pixels; below the side of the map, as mirroring needs."""
        radius = round(self.gaussian_truncate * self.gaussian_sigma)
        return max(0, min(radius, min(self.crop) - 1))

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels c_l of the three critical layers."""
        return BACKBONES[self.backbone]

    @property
    def map_sizes(self) -> list[tuple[int, int]]:
        """Height and width of the three critical layers, e.g. 56, 28 and 14 squared at 224."""
        return [tuple(math.ceil(side / stride) for side in self.crop) for stride in STRIDES]


class Tokenizer(nn.Module):
    """Eq. 1-3: a feature map [B, c, H, W] becomes g tokens [B, g, d]."""

    def __init__(self, channels: int, groups: int, dim: int) -> None:
        super().__init__()
        # A bias of L_g adds the same to every pixel and cancels in the softmax over the pixels, so
        # there is none to learn; the op takes one all the same.
        self.group = nn.Linear(channels, groups, bias=False)  # L_g
        self.register_buffer("group_bias", torch.zeros(groups), persistent=False)
        self.project = nn.Linear(channels, dim)  # L_d
        self.scale = 1 / math.sqrt(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Pool and project [B, c, H, W] into [B, g, d]."""
        # The paper projects every pixel (eq. 2), then pools (eq. 3). A^T (X W + b) = (A^T X) W + b
        # as the weights of a token sum to 1: pooling first projects 8 tokens, not 3136 pixels.
        pooled = layers.token_attention(features, self.group.weight, self.group_bias, self.scale)
        return self.project(pooled)


class Block(nn.Module):
    """One block of the TFM: eq. 4-7 (encoder, memory = x) or eq. 8-11 (decoder, memory = E_out)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)  # W_q
        self.key = nn.Linear(dim, dim, bias=False)  # W_k
        self.value = nn.Linear(dim, dim, bias=False)  # W_v
        self.attention_norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, dim)  # L_2
        self.output = nn.Linear(dim, dim)  # L_1
        self.output_norm = nn.LayerNorm(dim)
        self.scale = 1 / math.sqrt(dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Let tokens x [B, t, d] attend to memory [B, t, d]; returns [B, t, d]."""
        q, k, v = self.query(x), self.key(memory), self.value(memory)  # eq. 4, 8
        attended = layers.attention(q, k, v, heads=1, scale=self.scale)  # eq. 5, 9
        # The norm sits on the attention's output, before the residual is added: as printed.
        # float(): norms and the residual stream stay in float32 under autocast.
        a = x + self.attention_norm(attended.float())  # eq. 6, 10
        return self.output_norm((a + self.output(self.hidden(a).relu())).float())  # eq. 7, 11


class TFM(nn.Module):
    """S encoder blocks over Trans's tokens, then S decoder blocks that AGN's tokens ask through."""

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(Block(dim) for _ in range(blocks))
        self.decoder = nn.ModuleList(Block(dim) for _ in range(blocks))

    def forward(self, trans_tokens: Tensor, agn_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Turn T_T and T_G into E_out and D_out, each [B, 3g, d]."""
        # E_in is T_T and D_in is T_G: section 3.2.2 (3) and 5.2, against one sentence between them.
        encoded, decoded = trans_tokens, agn_tokens
        for block in self.encoder:
            encoded = block(encoded, encoded)
        for block in self.decoder:
            decoded = block(decoded, encoded)
        return encoded, decoded


class Mapper(nn.Module):
    """Eq. 12: adds to Trans's features what AGN's pixels read from the tokens of their layer."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        # A bias of the keys shifts all logits of a pixel alike and cancels in the softmax.
        self.key = nn.Linear(dim, channels, bias=False)
        self.value = nn.Linear(dim, channels)
        self.scale = 1 / math.sqrt(channels)

    def forward(self, agn: Tensor, trans: Tensor, tokens: Tensor) -> Tensor:
        """Return F_M [B, c, H, W] of F_G, F_T (both alike) and the layer's tokens [B, g, d]."""
        return layers.projector_attention(
            agn,
            trans,
            self.query.weight,
            self.query.bias,
            self.key(tokens),
            self.value(tokens),
            self.scale,
        )


class GTrans(Detector):
    """The whole model. AGN is frozen and in eval mode, whatever `train()` says.

    Args:
        config: see `GTransConfig`.
        agn: AGN's trunk with its weights (`load_backbone`); None builds one with random weights,
            to be filled by `load_state_dict`.
    """

    frozen = ("agn",)

    def __init__(self, config: GTransConfig, agn: nn.Module | None = None) -> None:
        super().__init__(config)
        self.agn = agn if agn is not None else create_backbone(config.backbone, LEVELS)
        self.trans = create_backbone(config.backbone, LEVELS)
        # AGN is frozen, its tokenizer has no pretrained weights and learns (ours).
        sizes = (config.groups, config.dim)
        self.agn_tokenizer = nn.ModuleList(Tokenizer(c, *sizes) for c in config.channels)
        self.trans_tokenizer = nn.ModuleList(Tokenizer(c, *sizes) for c in config.channels)
        self.tfm = TFM(config.dim, config.blocks)
        self.mapper = nn.ModuleList(Mapper(c, config.dim) for c in config.channels)
        self.register_buffer("alpha_scale", torch.tensor(config.alpha_scale or (1.0, 1.0, 1.0)))
        kernel = layers.gaussian_kernel(config.gaussian_sigma, config.gaussian_radius)
        self.register_buffer("gaussian", kernel, persistent=False)
        self.train(False)

    @classmethod
    def from_weights(cls, config: GTransConfig, weights: str) -> tuple[GTrans, dict]:
        """Build an untrained model around an AGN with weights; see `load_backbone`."""
        agn, info = load_backbone(config.backbone, weights, LEVELS)
        return cls(config, agn), info

    def frozen_features(self, image: Tensor) -> list[Tensor]:
        """F_G of an image [B, 3, H, W], RGB in [0, 1]: one map per critical layer, no gradient."""
        return self.agn(self.normalize(image))

    def trans_features(self, image: Tensor, agn: Sequence[Tensor]) -> list[Tensor]:
        """F_M of an image [B, 3, H, W], RGB in [0, 1], given its F_G."""
        trans = self.trans(self.normalize(image))
        agn_tokens = torch.cat([t(f) for t, f in zip(self.agn_tokenizer, agn, strict=True)], dim=1)
        trans_tokens = torch.cat(
            [t(f) for t, f in zip(self.trans_tokenizer, trans, strict=True)], dim=1
        )
        encoded, decoded = self.tfm(trans_tokens, agn_tokens)
        tokens = decoded if self.config.mapper_source == "decoder" else encoded
        groups = tokens.split(self.config.groups, dim=1)
        return [m(*inputs) for m, *inputs in zip(self.mapper, agn, trans, groups, strict=True)]

    def losses(self, image: Tensor, features: Sequence[Tensor] | None = None) -> Tensor:
        """Eq. 13-14 per image: [B], float32.

        Args:
            image: [B, 3, H, W], RGB in [0, 1].
            features: F_G of the same images where it is known already.
        """
        agn = self.frozen_features(image) if features is None else features
        mapped = self.trans_features(image, agn)
        layer_losses = [
            0.5 * (g.float() - m.float()).square().sum(dim=1).mean(dim=(1, 2))
            for g, m in zip(agn, mapped, strict=True)
        ]
        return torch.stack(layer_losses).sum(dim=0)

    def measure(self, image: Tensor, features: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Loss [B] (eq. 14), alpha_mse and alpha_cos [B, 3] of images."""
        _, mses, coses = self.compare(image, features)
        mse, cos = torch.stack(mses, dim=1), torch.stack(coses, dim=1)
        return {"loss": 0.5 * mse.sum(dim=1), "mse": mse, "cos": cos}

    def conclude(self, measured: dict[str, Tensor]) -> dict:
        """Set lambda of eq. 18 to the ratio of mean alpha_mse to mean alpha_cos (ours).

        A config that fixes it is obeyed.
        """
        mse, cos = measured["mse"].mean(dim=0), measured["cos"].mean(dim=0)
        ratio = torch.where((mse > 0) & (cos > 0), mse / cos, 1.0)
        self.alpha_scale.copy_(torch.tensor(self.config.alpha_scale or ratio.tolist()))
        return {"alpha_scale": self.alpha_scale.tolist()}

    def compare(
        self, image: Tensor, features: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Eq. 15-17 per layer: maps P^l [B, 1, h_l, w_l], alpha_mse [B], alpha_cos [B]."""
        agn = self.frozen_features(image) if features is None else features
        mapped = self.trans_features(image, agn)
        results = [layers.score_map(g, m) for g, m in zip(agn, mapped, strict=True)]
        maps, mses, coses = map(list, zip(*results, strict=True))
        return maps, mses, coses

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: [B, 3, H, W], RGB in [0, 1], H and W as the config's crop.

        Returns:
            score [B], the maximum of the map, and the anomaly map [B, 1, H, W] (eq. 18-19).
        """
        maps, mses, coses = self.compare(image)
        mode = FUSIONS.index(self.config.fusion) + 1
        fused = layers.fuse_maps(maps, mses, coses, self.alpha_scale, mode, self.config.crop)
        anomaly_map = layers.gaussian_blur(fused, self.gaussian)
        return anomaly_map.amax(dim=(1, 2, 3)), anomaly_map

    def map_fields(self) -> dict:
        """Describe how the maps were brought to their size and smoothed."""
        smoothing = {
            "kind": "gaussian",
            "sigma": self.config.gaussian_sigma,
            "size": 2 * self.config.gaussian_radius + 1,
            "border": "reflect",
        }
        return {"upsample": "bilinear", "align_corners": False, "smoothing": smoothing}

    def extra_fields(self) -> dict:
        """Return lambda of eq. 18."""
        return {"alpha_scale": self.alpha_scale.tolist()}
