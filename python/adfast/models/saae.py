"""SAAE: "Self-Attention Autoencoder for Anomaly Segmentation" (Yang).

A frozen ViT describes every patch of the image by its projection and the outputs of its first
blocks. An autoencoder that squeezes each patch through 1x1 convolutions and lets all patches
exchange what is left through a transformer learns to reconstruct those features of normal images;
where it fails the image is anomalous.

Equation and table numbers are the paper's. Feature maps are [B, C, H0, W0], tokens [B, N, V] with
N = H0 * W0. "Ours" marks what the paper leaves open.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adfast.errors import ModelError
from adfast.models import layers
from adfast.models.detector import Config, Detector
from adfast.models.vit import create_vit, load_vit, vit_features


@dataclass(frozen=True)
class SAAEConfig(Config):
    """Every choice of the model. JSON-friendly through `to_dict` and `from_dict`.

    Attributes:
        backbone: timm's name of the ViT.
        layers: the maps that make up f (eq. 1): 0 is the output of the patch projection, i that of
            encoder block i, counted from 1. The last one is the last block that runs.
        width: channels V between encoder and decoder, a multiple of `heads`; None measures it on
            the training images before a training (`SAAE.prepare`).
        pca_variance: share of the features' variance that V principal components keep.
        pca_positions: positions of each training image's map that are looked at for it, chosen at
            random (ours); all of them in a smaller map.
        heads: of every attention of the autoencoder.
        mlp_factor: width of the transformer's MLP in units of V: 1 for textures, 2 for objects; the
            default takes the wider one (ours).
        depth: encoder layers, and decoder layers, of the transformer.
        resize: height and width every frame is stretched to.
        crop: height and width of the centre crop the network sees, whole patches.
        mean: subtracted from RGB in 0..1.
        std: divides after that.
        norm_eps: of the ViT's LayerNorms.
    """

    backbone: str = "vit_base_patch16_384"
    layers: tuple[int, ...] = (0, 1, 2, 3, 4)
    width: int | None = None
    pca_variance: float = 0.8
    pca_positions: int = 128
    heads: int = 3
    mlp_factor: float = 2.0
    depth: int = 1
    resize: tuple[int, int] = (384, 384)
    crop: tuple[int, int] = (384, 384)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    norm_eps: float = 1e-6

    name = "saae"

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ModelError: names the field, its value and what it may be.
        """
        self.make_tuples("layers", "resize", "crop", "mean", "std")
        self.check(
            {
                "layers": (
                    min(self.layers, default=-1) >= 0
                    and sorted(set(self.layers)) == list(self.layers),
                    "0 (the patch projection) and blocks from 1, ascending",
                ),
                "heads": (self.heads >= 1, "at least 1"),
                "pca_variance": (0 < self.pca_variance <= 1, "above 0 and at most 1"),
                "pca_positions": (self.pca_positions >= 1, "at least 1"),
                "mlp_factor": (self.mlp_factor > 0, "positive"),
                "depth": (self.depth >= 1, "at least 1"),
                "norm_eps": (self.norm_eps > 0, "positive"),
            }
        )
        good = self.width is None or (self.width >= 1 and self.width % self.heads == 0)
        self.check({"width": (good, f"a positive multiple of the {self.heads} heads")})
        self.check_frame(smallest=1)

    @property
    def blocks(self) -> int:
        """Encoder blocks of the ViT that are built and run."""
        return self.layers[-1]


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lay tokens [B, H * W, C] in raster order out as [B, C, H, W]."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def map_to_tokens(features: Tensor) -> Tensor:
    """Read [B, C, H, W] in raster order as tokens [B, H * W, C]."""
    return features.flatten(2).transpose(1, 2)


def convolutions(channels: list[int]) -> nn.Sequential:
    """Half of table 1: 1x1 convolutions, all but the last with BatchNorm and ReLU."""
    parts: list[nn.Module] = []
    for before, after in zip(channels[:-2], channels[1:-1], strict=True):
        # The norm's shift makes a bias of the convolution redundant.
        parts += [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(channels[-2], channels[-1], 1))


class Attention(nn.Module):
    """Multi-head attention of the standard transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.heads, self.scale = heads, 1 / math.sqrt(width // heads)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Let x [B or 1, N, V] attend to memory [B, N, V]; returns [B, N, V]."""
        q, k, v = self.query(x), self.key(memory), self.value(memory)
        return self.output(layers.attention(q, k, v, self.heads, self.scale))


class Layer(nn.Module):
    """A layer of the standard transformer: attention to itself, to the memory if any, and an MLP.

    "The same as the standard transformer": each norm follows its residual, the MLP has a ReLU; but
    section 3.2 also follows ViT, which has it otherwise (ours: the standard transformer).
    """

    def __init__(self, width: int, heads: int, mlp: int, *, cross: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads) if cross else None
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.hidden = nn.Linear(width, mlp)
        self.output = nn.Linear(mlp, width)
        self.output_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Transform tokens x [B or 1, N, V]; a decoder layer also reads memory [B, N, V]."""
        # float(): norms and the residual stream stay in float32 under autocast.
        x = self.attention_norm((x + self.attention(x, x)).float())
        if self.cross is not None:
            x = self.cross_norm((x + self.cross(x, memory)).float())
        return self.output_norm((x + self.output(self.hidden(x).relu())).float())


class Transformer(nn.Module):
    """TE and TD of figure 2 with a patch size of 1x1: every position of the map is a token."""

    def __init__(self, config: SAAEConfig, positions: int) -> None:
        super().__init__()
        width = config.width
        mlp = max(1, round(config.mlp_factor * width))
        self.input = nn.Linear(width, width)
        # Both are learned from small random values (ours).
        self.position = nn.Parameter(0.02 * torch.randn(1, positions, width))
        self.query = nn.Parameter(0.02 * torch.randn(1, positions, width))  # the decoder's input
        sizes = (width, config.heads, mlp)
        self.encoder = nn.ModuleList(Layer(*sizes, cross=False) for _ in range(config.depth))
        self.decoder = nn.ModuleList(Layer(*sizes, cross=True) for _ in range(config.depth))
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Turn the tokens of g [B, N, V] into those the convolutional decoder reads, alike."""
        encoded = self.input(tokens) + self.position
        for layer in self.encoder:
            encoded = layer(encoded)
        # The positions are those of the encoder. No image has been seen here: a batch of one, and
        # all of the first layer up to its cross attention is a constant of the trained model.
        decoded = self.query + self.position
        for layer in self.decoder:
            decoded = layer(decoded, encoded)
        return self.output(decoded)


class SAAE(Detector):
    """The whole model. The ViT is frozen and in eval mode, whatever `train()` says.

    Args:
        config: see `SAAEConfig`. Without a width there is no autoencoder until `prepare`.
        vit: the ViT with its weights (`load_vit`); None builds one with random weights, to be
            filled by `load_state_dict`.
    """

    frozen = ("vit",)

    def __init__(self, config: SAAEConfig, vit: nn.Module | None = None) -> None:
        super().__init__(config)
        if vit is None:
            vit = create_vit(config.backbone, config.crop, config.blocks)
        self.vit = vit
        for module in vit.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config.norm_eps
        self.grid = tuple(vit.patch_embed.grid_size)  # H0, W0
        self.channels = len(config.layers) * vit.embed_dim  # U
        if config.width is not None:
            self._add_autoencoder()
        self.train(False)

    @classmethod
    def from_weights(cls, config: SAAEConfig, weights: str) -> tuple[SAAE, dict]:
        """Build an untrained model around a ViT with weights; see `load_vit`."""
        vit, info = load_vit(config.backbone, weights, config.crop, config.blocks)
        return cls(config, vit), info

    def _add_autoencoder(self) -> None:
        u, v = self.channels, self.config.width
        sizes = [u, (u + 2 * v) // 2, 2 * v, v]  # table 1
        device = self.vit.patch_embed.proj.weight.device
        self.encoder = convolutions(sizes).to(device)  # CE
        self.transformer = Transformer(self.config, math.prod(self.grid)).to(device)
        self.decoder = convolutions(sizes[::-1]).to(device)  # CD

    def prepare(self, features: Iterable[list[Tensor]]) -> None:
        """Measure V on f of the training images, unless the config states it."""
        if self.config.width is None:
            width = latent_width((f for (f,) in features), self.config)
            self.config = dataclasses.replace(self.config, width=width)
            self._add_autoencoder()
            self.train(self.training)

    def frozen_features(self, image: Tensor) -> list[Tensor]:
        """Eq. 1: f [B, U, H0, W0] of images [B, 3, H, W], RGB in [0, 1], in a list."""
        tokens = vit_features(self.vit, self.normalize(image), self.config.layers)
        return [tokens_to_map(torch.cat(tokens, dim=2), self.grid)]

    def reconstruct(self, features: Tensor) -> Tensor:
        """Return f_hat of f, both [B, U, H0, W0]."""
        if self.config.width is None:
            raise ModelError("[saae] width is None: state it, or measure it by a training")
        tokens = self.transformer(map_to_tokens(self.encoder(features)))
        return self.decoder(tokens_to_map(tokens, self.grid))

    def losses(self, image: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Eq. 2 per image: [B], float32."""
        (f,) = self.frozen_features(image) if features is None else features
        difference = f.float() - self.reconstruct(f).float()
        # vector_norm has a gradient (zero) where f and f_hat are equal; sqrt has none.
        return torch.linalg.vector_norm(difference, dim=1).sum(dim=(1, 2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: [B, 3, H, W], RGB in [0, 1], H and W as the config's crop.

        Returns:
            score [B], the maximum of the map (ours; the paper only segments), and the anomaly map
            [B, 1, H, W]: eq. 3, upsampled.
        """
        (f,) = self.frozen_features(image)
        difference = f.float() - self.reconstruct(f).float()
        distance = (difference * difference).sum(dim=1, keepdim=True).sqrt()  # eq. 3
        # align_corners is ours: cell centres stay over the centres of their patches.
        size = self.config.crop
        anomaly_map = F.interpolate(distance, size=size, mode="bilinear", align_corners=False)
        return anomaly_map.amax(dim=(1, 2, 3)), anomaly_map

    def map_fields(self) -> dict:
        """Describe how the map was brought to its size."""
        return {"upsample": "bilinear", "align_corners": False}


@torch.no_grad()
def latent_width(features: Iterable[Tensor], config: SAAEConfig) -> int:
    """Measure V: principal components that keep `pca_variance`, rounded up to whole heads (ours).

    Of what is looked at only a covariance [U, U] is kept, however many images there are.

    Args:
        features: batches of f [B, U, H0, W0] of normal images.
        config: see `SAAEConfig`.

    Raises:
        ModelError: there is no image, or the features do not vary.
    """
    generator = torch.Generator().manual_seed(0)  # the same positions whenever it is measured
    pivot = total = products = None
    count = 0
    for batch in features:
        tokens = map_to_tokens(batch.float())
        keys = torch.rand(tokens.shape[:2], generator=generator)
        chosen = keys.topk(min(tokens.shape[1], config.pca_positions), dim=1).indices
        sample = tokens[torch.arange(len(tokens))[:, None], chosen.to(tokens.device)].flatten(0, 1)
        if pivot is None:
            # Products around a first guess of the mean: around zero they would cancel.
            pivot = sample.mean(dim=0)
            total = torch.zeros_like(pivot, dtype=torch.float64)
            products = total.new_zeros(len(pivot), len(pivot))
        sample = sample - pivot
        total += sample.sum(dim=0)
        products += sample.T @ sample
        count += len(sample)
    if not count:
        raise ModelError("[saae] width cannot be measured: there are no images")
    covariance = products / count - torch.outer(total, total) / count**2
    return whole_heads(torch.linalg.eigvalsh(covariance), config)


def whole_heads(variances: Tensor, config: SAAEConfig) -> int:
    """Return V of the variances [U] of the principal components, in any order."""
    variances = variances.double().clamp_min(0).sort(descending=True).values
    if not variances[0] > 0:
        raise ModelError("[saae] width cannot be measured: the features do not vary")
    shares = variances.cumsum(0) / variances.sum()
    # 1e-6: the products were summed in float32, so components of no variance keep a little.
    kept = int((shares < config.pca_variance - 1e-6).sum()) + 1
    return math.ceil(kept / config.heads) * config.heads
