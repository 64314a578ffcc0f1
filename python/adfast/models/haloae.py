"""HaloAE, an autoencoder of HaloNet's local attention on the features of a VGG.

"HaloAE: An HaloNet based Local Transformer Auto-Encoder for Anomaly Detection and Localization"
(Mathian et al.).

A frozen VGG describes the image at a quarter of its size. An autoencoder of convolutions and of
attention within blocks and their halos learns to reconstruct those features of normal images; where
it fails the image is anomalous. In training a small network also turns the reconstructed features
back into the image, and a linear layer must see in that whether the image was damaged.

Equation, figure and table numbers are the paper's. "Ours" marks what the paper leaves open; "the
code" is what its authors published, which settles where the paper is at odds with itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adfast.data.cutpaste import RECTANGLE, SCAR, color_jitter, cutpaste
from adfast.models import layers
from adfast.models.detector import Config, Detector
from adfast.models.similarity import ssim_map
from adfast.models.vgg import VGG, load_vgg

STRIDE = 4  # of the features: 64x64 at 256
KEPT_WEIGHTS = 2**24  # of one attention, for its gradient: the paper's training has 2**27
MAP_SOURCES = ("features", "image")


@dataclass(frozen=True)
class HaloAEConfig(Config):
    """Every choice of the model. JSON-friendly through `to_dict` and `from_dict`.

    Attributes:
        backbone: timm's name of the VGG.
        layers: its convolutions whose outputs make up fm, counted from 1.
        head_width: channels after the encoder's head. Table 1 prints those of fm; the code has 234.
        head_filter: side of the head's filter, which does not pad: odd.
        widths: channels of the encoder's stages.
        filters: sides of their second convolutions' filters: odd.
        heads: of their attention.
        decoder_widths: of the decoder's stages but the last, which has the channels of fm.
        decoder_filters: of all of the decoder's stages.
        decoder_heads: of all of the decoder's stages.
        block: side b of a block of queries.
        halo: hl, pixels around it that its queries also see.
        head_dim: channels of a head.
        legacy_mask: mask the keys as the code does; see `layers.halo_attention`.
        image_widths: channels between the five convolutions of block D (ours).
        map_source: what is compared, "features" (A_fm, eq. 6) or "image" (A_im).
        smoothing_size: side of the Gaussian filter on the map: odd.
        smoothing_sigma: its standard deviation in pixels of the map (ours).
        ssim_size: side of the window of the structural similarity.
        ssim_sigma: its standard deviation in pixels.
        weight_start: a of figure 3's curve for alpha_1 to alpha_3 of eq. 5 (ours: the figure's
            legend says it).
        weight_end: b of the curves (ours).
        weight_middle: c of the curves, in epochs (ours).
        weight_slope: the factor on the epochs.
        weight_epochs: epochs of the training these curves are for; others stretch them.
        color_jitter: strength of the training images' modulation (ours).
        resize: height and width every image is stretched to.
        crop: height and width of the centre crop, the input of the network. A quarter of it, less
            the head's border, must be whole blocks: 256, or 48 more or less.
        mean: of RGB in 0..1 in the backbone's training; the default is ImageNet's.
        std: likewise.
    """

    backbone: str = "vgg19"
    layers: tuple[int, ...] = (1, 3, 5, 8)
    head_width: int = 234
    head_filter: int = 5
    widths: tuple[int, ...] = (234, 117, 58, 29)
    filters: tuple[int, ...] = (3, 3, 5, 5)
    heads: tuple[int, ...] = (4, 8, 8, 8)
    decoder_widths: tuple[int, ...] = (29, 58, 118, 236)
    decoder_filters: tuple[int, ...] = (3, 3, 3, 5, 1)
    decoder_heads: tuple[int, ...] = (4, 8, 8, 8, 8)
    block: int = 12
    halo: int = 2
    head_dim: int = 16
    legacy_mask: bool = False
    image_widths: tuple[int, ...] = (128, 64, 32, 16)
    map_source: str = "features"
    smoothing_size: int = 3
    smoothing_sigma: float = 0.8
    ssim_size: int = 11
    ssim_sigma: float = 1.5
    weight_start: tuple[float, ...] = (1.0, 0.1, 0.1)
    weight_end: tuple[float, ...] = (0.1, 1.0, 1.0)
    weight_middle: tuple[float, ...] = (100.0, 100.0, 250.0)
    weight_slope: float = 0.05
    weight_epochs: int = 250
    color_jitter: float = 0.1
    resize: tuple[int, int] = (256, 256)
    crop: tuple[int, int] = (256, 256)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    name = "haloae"

    def __post_init__(self) -> None:
        """Refuse values that cannot work; lists, as JSON has them, become tuples."""
        lists = [f for f, value in vars(self).items() if isinstance(value, (list, tuple))]
        self.make_tuples(*lists)
        stages, decoder_stages = len(self.widths), len(self.decoder_widths) + 1

        def positive(values: tuple[int, ...], count: int) -> bool:
            return len(values) == count and min(values) >= 1

        def odd(values: tuple[int, ...], count: int) -> bool:
            return positive(values, count) and all(value % 2 for value in values)

        self.check(
            {
                "layers": (
                    len(self.layers) > 0
                    and self.layers[0] >= 1
                    and list(self.layers) == sorted(set(self.layers)),
                    "convolutions in rising order, at least one, 1 being the first",
                ),
                "head_width": (self.head_width >= 1, "at least 1"),
                "head_filter": (odd((self.head_filter,), 1), "an odd number"),
                "widths": (stages > 0 and positive(self.widths, stages), "positive numbers"),
                "filters": (odd(self.filters, stages), f"{stages} odd numbers"),
                "heads": (positive(self.heads, stages), f"{stages} positive numbers"),
                "decoder_widths": (
                    decoder_stages == 1 or positive(self.decoder_widths, decoder_stages - 1),
                    "positive numbers",
                ),
                "decoder_filters": (
                    odd(self.decoder_filters, decoder_stages),
                    f"{decoder_stages} odd numbers, one more than decoder_widths",
                ),
                "decoder_heads": (
                    positive(self.decoder_heads, decoder_stages),
                    f"{decoder_stages} positive numbers, one more than decoder_widths",
                ),
                "block": (self.block >= 1, "at least 1"),
                "halo": (self.halo >= 0, "not negative"),
                "head_dim": (self.head_dim >= 1, "at least 1"),
                "image_widths": (positive(self.image_widths, 4), "four positive numbers"),
                "map_source": (self.map_source in MAP_SOURCES, " or ".join(MAP_SOURCES)),
                "smoothing_size": (odd((self.smoothing_size,), 1), "an odd number"),
                "smoothing_sigma": (self.smoothing_sigma > 0, "positive"),
                "ssim_size": (odd((self.ssim_size,), 1), "an odd number"),
                "ssim_sigma": (self.ssim_sigma > 0, "positive"),
                "weight_slope": (self.weight_slope > 0, "positive"),
                "weight_epochs": (self.weight_epochs >= 1, "at least 1"),
                "color_jitter": (0 <= self.color_jitter < 1, "from 0 to less than 1"),
            }
        )
        for field in ("weight_start", "weight_end"):
            values = getattr(self, field)
            self.check({field: (len(values) == 3 and min(values) > 0, "three positive numbers")})
        self.check({"weight_middle": (len(self.weight_middle) == 3, "three numbers")})
        self.check_frame(smallest=STRIDE * self.head_filter)
        border, step = STRIDE * (self.head_filter - 1), STRIDE * self.block
        good = all(side > border and (side - border) % step == 0 for side in self.crop)
        blocks = max(1, (min(self.crop) - border) // step)
        near = ", ".join(str(border + step * n) for n in (blocks, blocks + 1))
        self.check(
            {
                "crop": (
                    good,
                    f"sides that blocks of {self.block} tile once a quarter of them has lost the "
                    f"{self.head_filter - 1} rows of the head: {border} + n * {step}, such as "
                    f"{near}",
                )
            }
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of fm."""
        return self.crop[0] // STRIDE, self.crop[1] // STRIDE


class HaloAttention(nn.Module):
    """Attention of blocks to their neighbourhoods, as HaloNet has it: [B, C, H, W] alike."""

    def __init__(self, width: int, heads: int, config: HaloAEConfig) -> None:
        super().__init__()
        inner = heads * config.head_dim
        self.query = nn.Conv2d(width, inner, 1, bias=False)
        # Without a bias the keys and values of pixels outside the map, which are zero before, are
        # zero behind these.
        self.key = nn.Conv2d(width, inner, 1, bias=False)
        self.value = nn.Conv2d(width, inner, 1, bias=False)
        self.scale = 1 / math.sqrt(config.head_dim)
        distances = 2 * (config.block + 2 * config.halo) - 1
        # Relative positions, shared by the heads.
        self.rows = nn.Parameter(self.scale * torch.randn(distances, config.head_dim))
        self.columns = nn.Parameter(self.scale * torch.randn(distances, config.head_dim))
        self.output = nn.Conv2d(inner, width, 1)
        self.options = (config.block, config.halo, heads, self.scale, config.legacy_mask)

    def forward(self, x: Tensor) -> Tensor:
        """Let x [B, C, H, W] attend to itself."""
        inputs = self.query(x), self.key(x), self.value(x), self.rows, self.columns
        if self.training and self.weights(x) > KEPT_WEIGHTS:
            # Computed again when its gradient is: to keep all weights would take gigabytes.
            read = checkpoint(layers.halo_attention, *inputs, *self.options, use_reentrant=False)
        else:
            read = layers.halo_attention(*inputs, *self.options)
        return self.output(read)

    def weights(self, x: Tensor) -> int:
        """Count the weights that x [B, C, H, W] attends with."""
        block, halo, heads = self.options[:3]
        return heads * (len(x) * x.shape[2] * x.shape[3]) * (block + 2 * halo) ** 2


class Stage(nn.Module):
    """A brace of table 1: a residual block of two convolutions around halo attention.

    Args:
        before: channels that come in.
        width: channels that go out.
        filter_side: side of the second convolution's filter.
        heads: of the attention.
        config: see `HaloAEConfig`.
        transposed: convolutions are transposed, as in the decoder.
    """

    def __init__(
        self,
        before: int,
        width: int,
        filter_side: int,
        heads: int,
        config: HaloAEConfig,
        *,
        transposed: bool,
    ) -> None:
        super().__init__()
        convolution = nn.ConvTranspose2d if transposed else nn.Conv2d
        # The norms' shifts make biases of the convolutions redundant.
        self.reduce = convolution(before, width, 1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(width)
        self.attention = HaloAttention(width, heads, config)
        sides = {"kernel_size": filter_side, "padding": filter_side // 2, "bias": False}
        self.mix = convolution(width, width, **sides)
        self.mix_norm = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if before != width:
            self.shortcut.append(convolution(before, width, 1, bias=False))
            self.shortcut.append(nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, width, H, W], not negative."""
        y = self.reduce_norm(self.reduce(x)).relu()
        y = self.attention(y).relu()
        y = self.mix_norm(self.mix(y))
        return (y + self.shortcut(x)).relu()


class Autoencoder(nn.Module):
    """Block C, table 1: fm [B, C, H, W] to its reconstruction."""

    def __init__(self, channels: int, config: HaloAEConfig) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, config.head_width, config.head_filter, bias=False)
        self.head_norm = nn.BatchNorm2d(config.head_width)
        widths = [config.head_width, *config.widths, *config.decoder_widths, channels]
        filters = [*config.filters, *config.decoder_filters]
        heads = [*config.heads, *config.decoder_heads]
        stages = [
            Stage(*sizes, config, transposed=i >= len(config.widths))
            for i, sizes in enumerate(zip(widths[:-1], widths[1:], filters, heads, strict=True))
        ]
        self.encoder = nn.Sequential(*stages[: len(config.widths)])
        self.decoder = nn.Sequential(*stages[len(config.widths) :])
        self.size = config.grid

    def forward(self, features: Tensor) -> Tensor:
        """Return fm_hat of fm, both [B, C, H, W]."""
        x = self.head_norm(self.head(features)).relu()
        return F.interpolate(self.decoder(self.encoder(x)), size=self.size, mode="nearest")


class ImageDecoder(nn.Sequential):
    """Block D: reconstructed features [B, C, H, W] to an image [B, 3, 4 H, 4 W].

    Each convolution but the last has a ReLU: on the pixels of the image itself it would block the
    gradient where they come out negative (ours).
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        for before, after in zip((channels, *widths[:-1]), widths, strict=True):
            self.extend([nn.Conv2d(before, after, 3, padding=1), nn.ReLU()])
        self.append(nn.Conv2d(widths[-1], 3, 3, padding=1))
        self.append(nn.Upsample(scale_factor=STRIDE, mode="nearest"))


class HaloAE(Detector):
    """The whole model. The VGG is frozen and in eval mode, whatever `train()` says.

    Args:
        config: see `HaloAEConfig`.
        vgg: the trunk with its weights (`load_vgg`); None builds one with random weights, to be
            filled by `load_state_dict`.

    Attributes:
        mean_map: mean of `uncalibrated_map` over the training images [1, 1, h, w]; zeros until it
            is settled.
        loss_weights: alpha_1 to alpha_3 of eq. 5, set by `begin_epoch`.
    """

    frozen = ("vgg",)
    keeps_features = False  # each epoch trains on other colours and other damage
    has_mean_map = True

    def __init__(self, config: HaloAEConfig, vgg: VGG | None = None) -> None:
        super().__init__(config)
        self.vgg = VGG(config.backbone, config.layers) if vgg is None else vgg
        channels = sum(self.vgg.channels)
        self.autoencoder = Autoencoder(channels, config)
        self.image_decoder = ImageDecoder(channels, config.image_widths)
        self.classifier = nn.Linear(3 * math.prod(config.crop), 1)  # block E
        size = config.grid if config.map_source == "features" else config.crop
        self.register_buffer("mean_map", torch.zeros(1, 1, *size), persistent=False)
        kernel = layers.gaussian_kernel(config.smoothing_sigma, config.smoothing_size // 2)
        self.register_buffer("gaussian", kernel, persistent=False)
        self.begin_epoch(0, config.weight_epochs)
        self.train(False)

    @classmethod
    def from_weights(cls, config: HaloAEConfig, weights: str) -> tuple[HaloAE, dict]:
        """Build an untrained model around a VGG with weights; see `load_vgg`."""
        vgg, info = load_vgg(config.backbone, weights, config.layers)
        return cls(config, vgg), info

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set the weights of the losses for an epoch, counted from 0, of so many."""
        self.loss_weights = loss_weights(self.config, epoch, epochs)

    def frozen_features(self, image: Tensor) -> list[Tensor]:
        """Fm [B, C, H / 4, W / 4] of images [B, 3, H, W], RGB in [0, 1], in a list."""
        maps = self.vgg(self.normalize(image))
        resized = [quarter(m, s) for m, s in zip(maps, self.vgg.strides, strict=True)]
        return [torch.cat(resized, dim=1)]

    def losses(self, image: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Eq. 5 per image: [B], float32.

        The image in other colours is what is to be reconstructed. Of two damaged versions of it,
        with a rectangle and with a scar, only the classifier's verdict counts. The three pass the
        network together, so its batch norms see all (ours). Out of training the colours and damages
        are always the same.

        Args:
            image: [B, 3, H, W], RGB in [0, 1], normal.
            features: ignored: those of the images before their colours change.
        """
        generator = None if self.training else torch.Generator().manual_seed(0)
        image = color_jitter(image, self.config.color_jitter, generator)
        damaged = [cutpaste(image, piece, generator)[0] for piece in (RECTANGLE, SCAR)]
        (f,) = self.frozen_features(torch.cat([image, *damaged]))
        f_hat = self.autoencoder(f)
        image_hat = self.image_decoder(f_hat)
        count = len(image)
        verdicts = self.classifier(image_hat.flatten(1)).float().view(3, count)
        terms = (
            classification_losses(verdicts),
            self.feature_losses(f[:count], f_hat[:count]),
            self.image_losses(image, image_hat[:count]),
        )
        return sum(w * term for w, term in zip(self.loss_weights, terms, strict=True))

    def feature_losses(self, f: Tensor, f_hat: Tensor) -> Tensor:
        """Eq. 2 per image [B] of fm and its reconstruction [B, C, H, W], float32.

        SSIM's constants go by the largest feature of the image (ours): ReLU makes it the range.
        """
        f, f_hat = f.float(), f_hat.float()
        peak = f.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
        return reconstruction_losses(f, f_hat, peak, self.config)

    def image_losses(self, image: Tensor, image_hat: Tensor) -> Tensor:
        """Eq. 3 per image [B] of images in [0, 1] and their reconstructions [B, 3, H, W]."""
        peak = torch.ones((), device=image.device)
        return reconstruction_losses(image.float(), image_hat.float(), peak, self.config)

    def measure(self, image: Tensor, features: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Eq. 2 of the images as they are [B]: what the map is made of, alike in all epochs.

        The weights of eq. 5 change, so its value in one epoch says nothing about another (ours).
        With map_source "image" it is eq. 3.
        """
        (f,) = self.frozen_features(image) if features is None else features
        f_hat = self.autoencoder(f)
        if self.config.map_source == "image":
            return {"loss": self.image_losses(image, self.image_decoder(f_hat))}
        return {"loss": self.feature_losses(f, f_hat)}

    def uncalibrated_map(self, image: Tensor) -> Tensor:
        """Eq. 6: A_fm [B, 1, H / 4, W / 4] or, if the config says so, A_im [B, 1, H, W].

        The squared distance of every pixel, as in the code.
        """
        (f,) = self.frozen_features(image)
        expected, found = f, self.autoencoder(f)
        if self.config.map_source == "image":
            expected, found = image, self.image_decoder(found)
        difference = expected.float() - found.float()
        return (difference * difference).sum(dim=1, keepdim=True)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: [B, 3, H, W], RGB in [0, 1], H and W as the config's crop.

        Returns:
            score [B], the mean of the map at its full size, and the anomaly map [B, 1, H, W]:
            eq. 6 less the training images' mean, smoothed, then upsampled.
        """
        calibrated = layers.calibrate_map(self.uncalibrated_map(image), self.mean_map, "absolute")
        anomaly_map = layers.gaussian_blur(calibrated, self.gaussian)
        if self.config.map_source == "features":
            # align_corners is ours: cell centres stay over the centres of their 4x4 pixels.
            anomaly_map = F.interpolate(
                anomaly_map, size=self.config.crop, mode="bilinear", align_corners=False
            )
        return anomaly_map.mean(dim=(1, 2, 3)), anomaly_map

    def map_fields(self) -> dict:
        """Describe how the map was calibrated, smoothed and brought to its size."""
        smoothing = {
            "kind": "gaussian",
            "sigma": self.config.smoothing_sigma,
            "size": self.config.smoothing_size,
            "border": "reflect",
        }
        upsample = "bilinear" if self.config.map_source == "features" else "none"
        return {
            "upsample": upsample,
            "align_corners": False,
            "smoothing": smoothing,
            "calibration": "absolute",
        }

    def score_fields(self) -> dict:
        """Describe how the map becomes the score."""
        return {"reduction": "mean"}


def quarter(x: Tensor, stride: int) -> Tensor:
    """Bring a map [B, C, H / stride, W / stride] to a quarter of the image's size.

    The same as nearest upsampling to H x W and then the means of its 4x4 pixels, without ever
    being that large: of equal pixels one is the mean.
    """
    if stride < STRIDE:
        return F.avg_pool2d(x, STRIDE // stride)
    if stride > STRIDE:
        return F.interpolate(x, scale_factor=stride // STRIDE, mode="nearest")
    return x


def loss_weights(config: HaloAEConfig, epoch: int, epochs: int) -> tuple[float, float, float]:
    """Return alpha_1 to alpha_3 of figure 3 for an epoch, counted from 0, of so many."""
    x = epoch * config.weight_epochs / epochs
    curves = zip(config.weight_start, config.weight_end, config.weight_middle, strict=True)
    values = [(a - b) / (1 + math.exp((x - c / 2) * config.weight_slope)) + b for a, b, c in curves]
    return tuple(value / sum(values) for value in values)


def classification_losses(verdicts: Tensor) -> Tensor:
    """Eq. 1 per image: [B].

    Args:
        verdicts: logits of being damaged [1 + n, B]: of the image, then of its n damaged versions,
            whose mean counts (ours: so that both classes weigh the same).
    """
    return F.softplus(verdicts[0]) + F.softplus(-verdicts[1:]).mean(dim=0)


def reconstruction_losses(x: Tensor, x_hat: Tensor, peak: Tensor, config: HaloAEConfig) -> Tensor:
    """Eq. 2 or 3 per image: [B].

    The mean over the pixels stands for their sum, and SSIM's term is also one over the channels
    (ours): so the loss does not grow with the image, and eq. 1 is not lost beside it.

    Args:
        x: what was to be reconstructed [B, C, H, W].
        x_hat: what was [B, C, H, W].
        peak: range of x, for SSIM [] or [B, 1, 1, 1].
        config: see `HaloAEConfig`.
    """
    similarity = ssim_map(x / peak, x_hat / peak, config.ssim_size, config.ssim_sigma)
    # vector_norm has a gradient (zero) where both are equal; sqrt has none.
    distance = torch.linalg.vector_norm(x - x_hat, dim=1)
    return distance.mean(dim=(1, 2)) + 1 - similarity.mean(dim=(1, 2, 3))
