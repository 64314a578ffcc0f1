"""ADTR: "Anomaly Detection Transformer with Feature Reconstruction" (You et al.).

A frozen ImageNet backbone turns the image into one map of multi-scale features, and a transformer
rebuilds that map from a learned auxiliary query. The query keeps it from copying what it sees, so
what is unlike the good images it was trained on is rebuilt badly: there the image is anomalous.

Equation numbers are the paper's. Feature maps are [B, C, H, W], tokens [B, HW, d]. "Ours" marks
what the paper leaves open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adfast.models import layers
from adfast.models.backbones import create_backbone, load_backbone
from adfast.models.detector import Config, Detector


@dataclass(frozen=True)
class ADTRConfig(Config):
    """Every choice of the model. JSON-friendly through `to_dict` and `from_dict`.

    Attributes:
        backbone: the frozen feature extractor, any convolutional backbone of timm.
        levels: its feature levels to use, counted from the finest; None takes one level (the last
            block) for each of the strides 2, 4, 8, 16 and 32, the paper's layer1 to layer5.
        dim: width of the tokens.
        blocks: encoder layers and decoder layers.
        heads: of every attention; divides dim.
        hidden: width inside the feed-forward networks.
        dropout: in training, on what each sublayer adds, as in the transformer that the paper cites
            (ours: the paper names no rate).
        grid: height and width of the feature map; None is 1/16 of the crop, as 16 at 256. The
            paper's CIFAR-10 model has a crop of 32 and a grid of 8.
        upsample: bring the map to the size of the crop; False leaves it on the grid (CIFAR-10).
        pool: side of the square that the map is averaged over before its maximum is the score;
            None is 16, or all of a smaller map (ours).
        resize: height and width every frame is stretched to.
        crop: height and width of the centre crop the network sees.
        mean: subtracted from RGB in 0..1.
        std: divides after that.
    """

    backbone: str = "tf_efficientnet_b4"
    levels: tuple[int, ...] | None = None
    dim: int = 256
    blocks: int = 4
    heads: int = 8
    hidden: int = 1024
    dropout: float = 0.1
    grid: tuple[int, int] | None = None
    upsample: bool = True
    pool: int | None = None
    resize: tuple[int, int] = (256, 256)
    crop: tuple[int, int] = (256, 256)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    name = "adtr"

    def __post_init__(self) -> None:
        """Resolve defaults and refuse values that cannot work.

        Raises:
            ModelError: names the field, its value and what it may be.
        """
        self.make_tuples("levels", "grid", "resize", "crop", "mean", "std")
        if self.grid is None:
            object.__setattr__(self, "grid", tuple(max(1, side // 16) for side in self.crop))
        if self.pool is None:
            object.__setattr__(self, "pool", min(16, *self.map_size))
        self.check(
            {
                "levels": (
                    self.levels is None
                    or (min(self.levels, default=-1) >= 0 and sorted(set(self.levels)))
                    == list(self.levels),
                    "feature levels of the backbone, ascending",
                ),
                "dim": (self.dim >= 1, "at least 1"),
                "blocks": (self.blocks >= 1, "at least 1"),
                "heads": (
                    self.heads >= 1 and self.dim % self.heads == 0,
                    f"a divisor of dim, {self.dim}",
                ),
                "hidden": (self.hidden >= 1, "at least 1"),
                "dropout": (0 <= self.dropout < 1, "at least 0 and below 1"),
                "grid": (len(self.grid) == 2 and min(self.grid) >= 1, "two sides of at least 1"),
                "pool": (
                    1 <= self.pool <= min(self.map_size),
                    f"1 to the map's smaller side, {min(self.map_size)}",
                ),
            }
        )
        self.check_frame(smallest=32)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the anomaly map."""
        return self.crop if self.upsample else self.grid


class MultiHeadAttention(nn.Module):
    """Attention with the learned position added to queries and keys, not to values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.heads, self.scale = heads, 1 / math.sqrt(dim // heads)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        """Let tokens x [B or 1, n, d] read memory [B, n, d]; position is [1, n, d]."""
        q, k, v = self.query(x + position), self.key(memory + position), self.value(memory)
        return self.output(layers.attention(q, k, v, self.heads, self.scale))


class FeedForward(nn.Sequential):
    """FC1, ReLU, FC2 of the appendix's table."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))


class AddNorm(nn.Module):
    """Shortcut and layer norm after a sublayer (post-norm, as the transformer that is cited)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return norm(x + y), in float32 whatever autocast does around it."""
        return self.norm((x + self.dropout(y)).float())


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads)
        self.attention_norm = AddNorm(dim, dropout)
        self.feed_forward = FeedForward(dim, hidden)
        self.output_norm = AddNorm(dim, dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Turn tokens [B, n, d] into tokens [B, n, d]."""
        x = self.attention_norm(x, self.attention(x, x, position))
        return self.output_norm(x, self.feed_forward(x))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's tokens, feed-forward network."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, heads)
        self.self_attention_norm = AddNorm(dim, dropout)
        self.cross_attention = MultiHeadAttention(dim, heads)
        self.cross_attention_norm = AddNorm(dim, dropout)
        self.feed_forward = FeedForward(dim, hidden)
        self.output_norm = AddNorm(dim, dropout)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        """Turn tokens [B or 1, n, d] into tokens [B, n, d], B being that of memory [B, n, d]."""
        x = self.self_attention_norm(x, self.self_attention(x, x, position))
        x = self.cross_attention_norm(x, self.cross_attention(x, memory, position))
        return self.output_norm(x, self.feed_forward(x))


class Reconstruction(nn.Module):
    """Section 3.1: the transformer between two 1x1 convolutions."""

    def __init__(self, channels: int, config: ADTRConfig) -> None:
        super().__init__()
        dim, tokens = config.dim, config.grid[0] * config.grid[1]
        sizes = (dim, config.heads, config.hidden, config.dropout)
        self.reduce = nn.Conv2d(channels, dim, 1)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.blocks))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(config.blocks))
        self.recover = nn.Conv2d(dim, channels, 1)
        # A learned embedding of the tokens' size each: "position" and "auxiliary query".
        self.position = nn.Parameter(torch.randn(1, tokens, dim))
        self.query = nn.Parameter(torch.randn(1, tokens, dim))
        for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Rebuild the feature map f [B, C, h, w]: f_hat, alike."""
        reduced = self.reduce(features)
        memory = reduced.flatten(2).transpose(1, 2)
        for block in self.encoder:
            memory = block(memory, self.position)
        # One query for every image. Until it meets the memory it keeps a batch of one: what the
        # first self-attention makes of it depends on no image and is a constant of the model.
        x = self.query
        for block in self.decoder:
            x = block(x, memory, self.position)
        return self.recover(x.transpose(1, 2).unflatten(2, reduced.shape[2:]))


class ADTR(Detector):
    """The whole model. The backbone is frozen and in eval mode, whatever `train()` says.

    Args:
        config: see `ADTRConfig`.
        backbone: the feature extractor with its weights (`load_backbone`); None builds one with
            random weights, to be filled by `load_state_dict`.
    """

    frozen = ("backbone",)

    def __init__(self, config: ADTRConfig, backbone: nn.Module | None = None) -> None:
        super().__init__(config)
        self.backbone = backbone or create_backbone(config.backbone, config.levels)
        self.reconstruction = Reconstruction(sum(self.backbone.feature_info.channels()), config)
        self.train(False)

    @classmethod
    def from_weights(cls, config: ADTRConfig, weights: str) -> tuple[ADTR, dict]:
        """Build an untrained model around a backbone with weights; see `load_backbone`."""
        backbone, info = load_backbone(config.backbone, weights, config.levels)
        return cls(config, backbone), info

    def frozen_features(self, image: Tensor) -> list[Tensor]:
        """Return the multi-scale feature map f [B, C, h, w] of images [B, 3, H, W], in a list."""
        levels = self.backbone(self.normalize(image))
        resized = [
            F.interpolate(f, size=self.config.grid, mode="bilinear", align_corners=True)
            for f in levels
        ]
        return [torch.cat(resized, dim=1)]

    def difference(self, image: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Eq. 2: d = f - f_hat [B, C, h, w], float32."""
        (f,) = self.frozen_features(image) if features is None else features
        return f.float() - self.reconstruction(f).float()

    def losses(self, image: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Eq. 1 per image: [B], float32."""
        return self.difference(image, features).square().sum(dim=1).mean(dim=(1, 2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: [B, 3, H, W], RGB in [0, 1], H and W as the config's crop.

        Returns:
            score [B], the maximum of the map after mean pooling, and the anomaly map [B, 1, H, W]
            (eq. 3).
        """
        anomaly_map = self.difference(image).square().sum(dim=1, keepdim=True).sqrt()
        if self.config.upsample:
            anomaly_map = F.interpolate(
                anomaly_map, size=self.config.crop, mode="bilinear", align_corners=True
            )
        pooled = F.avg_pool2d(anomaly_map, self.config.pool, stride=1)
        return pooled.amax(dim=(1, 2, 3)), anomaly_map

    def map_fields(self) -> dict:
        """Describe how the map was brought to its size."""
        return {"upsample": "bilinear" if self.config.upsample else "none", "align_corners": True}

    def score_fields(self) -> dict:
        """Describe how the map becomes the score."""
        return {"reduction": "pooled_max", "pool": self.config.pool}
