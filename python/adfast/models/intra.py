"""InTra: "Inpainting Transformer for Anomaly Detection" (Pirnay and Chai).

The image is cut into patches. A transformer sees a window of patches one of which is hidden, and
paints that one from the others; it is trained, from scratch, on normal images only. Hiding and
repainting every patch in turn gives an image without defects; where its gradients differ from the
original's more than they do on normal images, the image is anomalous.

Equation and table numbers are the paper's, but all counts start at 0. Tokens are [B, t, D], grids
of patches rows x columns. "Ours" marks what the paper leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adfast.errors import ModelError
from adfast.models import layers
from adfast.models.detector import Config, Detector
from adfast.models.similarity import ssim_map

ATTENTIONS = ("mfsa", "msa")
POSITIONS = ("global", "local")


@dataclass(frozen=True)
class InTraConfig(Config):
    """Every choice of the model. JSON-friendly through `to_dict` and `from_dict`.

    Attributes:
        patch: K, side of a patch in pixels.
        window: L, side of a window in patches.
        width: D of the tokens.
        blocks: n of the transformer.
        heads: of every attention.
        mlp_factor: hidden width of a block's MLP in units of D.
        attention: "mfsa" (queries and keys from MLPs, eq. 10) or "msa" (linear, eq. 6).
        feature_hidden: hidden width of the MLPs of MFSA in units of D.
        feature_factor: F, width of the queries and keys of MFSA, in units of D.
        positions: "global" counts the patches of the image (eq. 2), "local" those of the window
            (eq. 1).
        long_skips: add the outputs of early blocks to the inputs of late ones.
        norm_eps: of the LayerNorms; ViT's (ours).
        epoch_windows: windows that are painted per training image and epoch.
        visit_windows: how many of them at a time, so that a batch of images has as many windows as
            the paper's batch (ours: the paper's batches may mix more images).
        validation_windows: windows per validation image, the same in every epoch (ours).
        augment: flip and turn the training images at random: by quarter turns (ours), and only by
            flips where the image is not square.
        alpha: weight of the gradients in the loss (eq. 12).
        beta: weight of the structural similarity in the loss.
        gms_c: constant of the gradient magnitude similarity; its authors' for values in [0, 1].
        ssim_window: side of the window of the structural similarity; its authors' 11.
        ssim_sigma: its Gaussian's; its authors' 1.5.
        scales: the map compares the images made smaller by each of these (eq. 16), by averaging
            (ours; the paper says bilinear).
        filters: sides of the mean and Gaussian filters per scale, for images of `filter_side`.
        filter_side: for other images they are in proportion to the smaller side, rounded to odd.
        gaussian_sigma: of the Gaussian filters, in pixels, at every image size.
        mean_map_images: training images of whose maps the mean is taken (eq. 17); None takes all
            (ours: a limit for large sets).
        resize: height and width every frame is stretched to.
        crop: height and width of the centre crop the network sees, whole patches. The paper has
            256, 320 or 512 by category.
        mean: subtracted from RGB in 0..1: zeros, as the paper's model paints plain images.
        std: divides after that: ones.
    """

    patch: int = 16
    window: int = 7
    width: int = 512
    blocks: int = 13
    heads: int = 8
    mlp_factor: float = 4.0
    attention: str = "mfsa"
    feature_hidden: float = 2.0
    feature_factor: float = 0.5
    positions: str = "global"
    long_skips: bool = True
    norm_eps: float = 1e-6
    epoch_windows: int = 600
    visit_windows: int = 8
    validation_windows: int = 64
    augment: bool = True
    alpha: float = 0.01
    beta: float = 0.01
    gms_c: float = 0.0026
    ssim_window: int = 11
    ssim_sigma: float = 1.5
    scales: tuple[int, ...] = (2, 4)
    filters: tuple[int, ...] = (21, 11)
    filter_side: int = 512
    gaussian_sigma: float = 2.0
    mean_map_images: int | None = None
    resize: tuple[int, int] = (256, 256)
    crop: tuple[int, int] = (256, 256)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    name = "intra"

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ModelError: names the field, its value and what it may be.
        """
        self.make_tuples("scales", "filters", "resize", "crop", "mean", "std")
        self.check(
            {
                name: (getattr(self, name) >= 1, "at least 1")
                for name in ("patch", "window", "width", "blocks", "heads", "epoch_windows")
                + ("visit_windows", "validation_windows", "filter_side")
            }
        )
        at_least_two = "at least 2: one patch is hidden, the others must say what it was"
        odd = "an odd number of at least 1"
        features = self.feature_width
        self.check(
            {
                "window": (self.window >= 2, at_least_two),
                "heads": (self.width % self.heads == 0, f"a divisor of width, {self.width}"),
                "mlp_factor": (self.mlp_factor > 0, "positive"),
                "attention": (self.attention in ATTENTIONS, " or ".join(ATTENTIONS)),
                "feature_hidden": (self.feature_hidden > 0, "positive"),
                "feature_factor": (
                    features >= 1 and features % self.heads == 0,
                    f"such that width * feature_factor, {features}, is a positive multiple of the "
                    f"{self.heads} heads",
                ),
                "positions": (self.positions in POSITIONS, " or ".join(POSITIONS)),
                "norm_eps": (self.norm_eps > 0, "positive"),
                "alpha": (self.alpha >= 0, "not negative"),
                "beta": (self.beta >= 0, "not negative"),
                "gms_c": (self.gms_c > 0, "positive"),
                "ssim_window": (self.ssim_window >= 1 and self.ssim_window % 2 == 1, odd),
                "ssim_sigma": (self.ssim_sigma > 0, "positive"),
                "scales": (min(self.scales, default=0) >= 1, "whole numbers of at least 1"),
                "filters": (
                    len(self.filters) == len(self.scales) and min(self.filters) >= 1,
                    f"as many sides as scales, {len(self.scales)}, each at least 1",
                ),
                "gaussian_sigma": (self.gaussian_sigma > 0, "positive"),
                "mean_map_images": (
                    self.mean_map_images is None or self.mean_map_images >= 1,
                    "None (all) or at least 1",
                ),
                "mean": (not any(self.mean), "zeros: the model paints RGB in 0..1 as it is"),
                "std": (set(self.std) == {1.0}, "ones: the model paints RGB in 0..1 as it is"),
            }
        )
        self.check_frame(smallest=self.window * self.patch)
        multiples = (self.patch, *self.scales)
        rules = [
            (
                all(side % number == 0 for side in self.crop for number in multiples),
                f"two multiples of patch and scales {multiples}",
            )
        ]
        for scale, size in zip(self.scales, self.filter_sizes, strict=True):
            side = min(self.crop) // scale
            rules.append(
                (
                    size // 2 < side,
                    f"sides at which 1/{scale} of the image is larger than {size // 2}, half of "
                    "its filter (filters)",
                )
            )
        for rule in rules:
            self.check({"crop": rule})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image."""
        return self.crop[0] // self.patch, self.crop[1] // self.patch

    @property
    def feature_width(self) -> int:
        """Width of queries and keys: F of MFSA, D of MSA."""
        return round(self.width * (self.feature_factor if self.attention == "mfsa" else 1))

    @property
    def filter_sizes(self) -> tuple[int, ...]:
        """Sides of the map's filters at this crop, odd."""
        share = min(self.crop) / self.filter_side
        return tuple(2 * max(0, round((size * share - 1) / 2)) + 1 for size in self.filters)


def window_corner(patch: int, length: int, side: int) -> int:
    """Where a window begins along one axis so that a patch is as central as can be (eq. 13-15).

    Args:
        patch: position along the axis, 0..side - 1.
        length: L.
        side: patches along the axis, at least L.
    """
    g = max(0, patch - length // 2)
    return g - max(0, g + length - side)


class Windows(nn.Module):
    """Which patches of a grid its windows hold, and in which order.

    Args:
        grid: rows and columns of patches.
        length: L.
    """

    def __init__(self, grid: tuple[int, int], length: int) -> None:
        super().__init__()
        (rows, columns), tokens = grid, length**2
        self.columns, self.length = columns, length
        # How many corners there are along either axis.
        self.corners = (rows - length + 1, columns - length + 1)
        inside = torch.arange(tokens)
        first = inside[:, None]
        others = inside[None, :-1] + (inside[None, :-1] >= first)
        self.register_buffer("order", torch.cat((first, others), dim=1), persistent=False)
        offsets = inside // length * columns + inside % length
        self.register_buffer("offsets", offsets, persistent=False)

    def patches(self, corner: Tensor) -> Tensor:
        """Return the patches [n, L * L] of windows in raster order; corner: row, column [n, 2]."""
        return (corner[:, 0] * self.columns + corner[:, 1])[:, None] + self.offsets

    def central(self) -> tuple[Tensor, Tensor]:
        """Return for every patch of the grid the corner [N, 2] of its window and its place there.

        The place [N] is 0..L * L - 1, in raster order.
        """
        (rows, columns), length = self.corners, self.length
        rows, columns = rows + length - 1, columns + length - 1
        corners, places = [], []
        for t in range(rows):
            for u in range(columns):
                r, s = window_corner(t, length, rows), window_corner(u, length, columns)
                corners.append((r, s))
                places.append((t - r) * length + u - s)
        return torch.tensor(corners), torch.tensor(places)

    def draw(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw corners [count, 2] and places [count] of hidden patches, all equally likely."""
        axes = [torch.randint(size, (count,), generator=generator) for size in self.corners]
        places = torch.randint(self.length**2, (count,), generator=generator)
        return torch.stack(axes, dim=1), places


class Block(nn.Module):
    """A block of figure 3: attention and MLP, each behind a LayerNorm and added to its input."""

    def __init__(self, config: InTraConfig) -> None:
        super().__init__()
        width, features, heads = config.width, config.feature_width, config.heads
        self.attention_norm = nn.LayerNorm(width, eps=config.norm_eps)
        if config.attention == "mfsa":  # eq. 10
            hidden = max(1, round(config.feature_hidden * width))
            self.query, self.key = (
                nn.Sequential(
                    nn.Linear(width, hidden),
                    nn.GELU(),
                    # A bias of the keys shifts all logits of a token alike and cancels.
                    nn.Linear(hidden, features, bias=bias),
                )
                for bias in (True, False)
            )
        else:  # eq. 6
            self.query = nn.Linear(width, features, bias=False)
            self.key = nn.Linear(width, features, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)  # U of eq. 9
        self.heads, self.scale = heads, 1 / math.sqrt(features // heads)
        self.mlp_norm = nn.LayerNorm(width, eps=config.norm_eps)
        hidden = max(1, round(config.mlp_factor * width))
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
        self.mlp_output = nn.Linear(hidden, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q and k [B, t, F] and v [B, t, D] of tokens x [B, t, D], each from its own."""
        x = self.attention_norm(x)
        return self.query(x), self.key(x), self.value(x)

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let the tokens x [B, t, D] of every window look at each other (eq. 7-9)."""
        # float(): the residual stream stays in float32 under autocast.
        return x + self.output(layers.attention(q, k, v, self.heads, self.scale)).float()

    def think(self, x: Tensor) -> Tensor:
        """Apply the MLP to tokens [B, t, D]."""
        return x + self.mlp_output(self.hidden(self.mlp_norm(x))).float()

    def think_mean(self, x: Tensor) -> Tensor:
        """Return the mean over the tokens of what `think` returns, [B, D].

        The MLP's second layer is linear, so it takes the mean of its inputs.
        """
        hidden = self.hidden(self.mlp_norm(x))
        return x.mean(dim=1) + self.mlp_output(hidden.mean(dim=1)).float()


class InTra(Detector):
    """The whole model. Nothing of it is frozen, and it needs no weights to begin with.

    The buffer `mean_map` [1, 1, H, W] is the mean of `uncalibrated_map` over the training images;
    zeros until it is settled, and no part of a checkpoint.

    Args:
        config: see `InTraConfig`.
    """

    has_mean_map = True

    def __init__(self, config: InTraConfig) -> None:
        super().__init__(config)
        width, length = config.width, config.window
        pixels = 3 * config.patch**2
        # E of eq. 3; the positions have the bias.
        self.projection = nn.Conv2d(3, width, config.patch, stride=config.patch, bias=False)
        places = math.prod(config.grid) if config.positions == "global" else length**2
        # Learned from small random values (ours).
        self.position = nn.Parameter(0.02 * torch.randn(1, places, width))
        self.inpaint = nn.Parameter(0.02 * torch.randn(1, 1, width))  # x_inpaint of eq. 4
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.output = nn.Linear(width, pixels)  # pixels in the order row, column, channel
        self.windows = Windows(config.grid, length)
        for i, size in enumerate(config.filter_sizes):
            kernel = layers.gaussian_kernel(config.gaussian_sigma, size // 2)
            self.register_buffer(f"gaussian{i}", kernel, persistent=False)
        self.register_buffer("mean_map", torch.zeros(1, 1, *config.crop), persistent=False)
        self._index_windows()
        self._begin()
        self.train(False)

    def _begin(self) -> None:
        """Set the weights a training begins with (ours: ViT's, and patches painted grey)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.output.bias, 0.5)

    @classmethod
    def from_weights(cls, config: InTraConfig, weights: str) -> tuple[InTra, dict]:
        """Build an untrained model.

        Raises:
            ModelError: weights are named; there is no part of this model that could take them.
        """
        if weights != "none":
            raise ModelError(
                f"[intra] weights are {weights!r}, expected none: InTra is trained from scratch"
            )
        return cls(config), {"source": "none"}

    @property
    def visits(self) -> int:
        """How often every training image is shown per epoch."""
        return math.ceil(self.config.epoch_windows / self.config.visit_windows)

    def _index_windows(self) -> None:
        """Settle where the tokens of the window of every patch come from (see `embed`)."""
        corner, place = self.windows.central()
        if self.config.positions == "global":
            index = self.windows.patches(corner).gather(1, self.windows.order[place])
            index[:, 0] += math.prod(self.config.grid)
        else:
            rows, columns = self.windows.corners
            corners = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
            patches = self.windows.patches(corners)
            self.register_buffer("local_patches", patches, persistent=False)
            tokens = self.config.window**2
            first = (corner[:, 0] * columns + corner[:, 1]) * tokens
            index = first[:, None] + self.windows.order[place]
            index[:, 0] = patches.numel() + place
        self.register_buffer("window_index", index, persistent=False)

    def frozen_features(self, image: Tensor) -> list[Tensor]:
        """Return nothing: every part of the model learns."""
        return []

    def prepare(self, features: Iterable[list[Tensor]]) -> None:
        """Nothing depends on the images before the training."""

    def embed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 3 and 4 for everything that occurs in the windows of an image, once.

        Args:
            image: [B, 3, H, W].

        Returns:
            Tokens [B, M, D] that are seen and tokens [1, I, D] of a hidden patch, the latter
            depending on no image. With global positions there is one of either kind per patch.
            With local ones there is one seen per patch of every window that can be placed in the
            grid, windows in raster order, and one hidden per place in a window.
        """
        patches = self.projection(image).flatten(2).transpose(1, 2)
        hidden = self.inpaint + self.position
        if self.config.positions == "global":
            return patches + self.position, hidden
        windows = layers.window_gather(patches, self.local_patches)
        # As one row per window, so that the positions are one constant for each of its columns.
        tokens = windows.flatten(1) + self.position.flatten()
        return tokens.reshape(image.shape[0], -1, self.config.width), hidden

    def reconstruct(self, image: Tensor) -> Tensor:
        """Paint every patch of images [B, 3, H, W] from its window; returns images alike.

        All windows of all images run as one batch; what of the first block depends on one token
        alone is computed once per token, not once per window.
        """
        first = self.blocks[0]
        seen, hidden = self.embed(image)
        x, q, k, v = (
            layers.window_gather(
                torch.cat((a, b.expand(a.shape[0], -1, -1)), dim=1), self.window_index
            )
            for a, b in zip(
                (seen, *first.project(seen)), (hidden, *first.project(hidden)), strict=True
            )
        )
        mean = self._through(first.attend(x, q, k, v))
        rows, columns = self.config.grid
        pixels = self.output(mean).reshape(image.shape[0], rows * columns, -1)
        cells = pixels.transpose(1, 2).unflatten(2, (rows, columns))
        return layers.depth_to_space(cells, self.config.patch)

    def paint(self, image: Tensor, corner: Tensor, place: Tensor) -> Tensor:
        """Paint hidden patches of any windows, each window by itself: what is trained.

        Args:
            image: [B, 3, H, W].
            corner: row and column of the corners [B, n, 2].
            place: of the hidden patch in each window, 0..L * L - 1, [B, n].

        Returns:
            [B * n, 3, K, K], float32.
        """
        order = self.windows.order[place.flatten()]
        index = self.windows.patches(corner.flatten(0, 1)).gather(1, order)
        where = index if self.config.positions == "global" else order
        position = self.position[0][where]
        patches = self.projection(image).flatten(2).transpose(1, 2)
        image_begins = patches.shape[1] * torch.arange(len(image), device=index.device)
        index = index + image_begins.repeat_interleave(place.shape[1])[:, None]
        seen = layers.window_gather(patches.flatten(0, 1)[None], index[:, 1:])
        x = torch.cat((self.inpaint.expand(len(index), -1, -1), seen.float()), dim=1) + position
        first = self.blocks[0]
        mean = self._through(first.attend(x, *first.project(x)))
        side = self.config.patch
        return self.output(mean).float().unflatten(1, (side, side, 3)).permute(0, 3, 1, 2)

    def _through(self, x: Tensor) -> Tensor:
        """Run the transformer from behind the first block's attention: x is [W, t, D].

        Returns:
            The mean over the tokens of what the last block gives, [W, D].
        """
        last = len(self.blocks) - 1
        half = last // 2 if self.config.long_skips else 0
        early: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if i > last - half:
                x = x + early.pop()  # U-net fashion: of 13 blocks, 7 + j gets the output of 5 - j
            if i > 0:
                x = block.attend(x, *block.project(x))
            if i < last:
                x = block.think(x)
            if i < half:
                early.append(x)
        return self.blocks[-1].think_mean(x)

    def losses(self, image: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Eq. 12 per image, averaged over its windows: [B], float32.

        In training other `visit_windows` windows are drawn at every call, in validation the same
        `validation_windows` always.

        Args:
            image: [B, 3, H, W], RGB in [0, 1].
            features: none; see `frozen_features`.
        """
        count = self.config.visit_windows
        if self.training:
            if self.config.augment:
                image = turned(image)
            return self.window_losses(image, *self._drawn(len(image), count, None))
        total = self.config.validation_windows
        corner, place = self._drawn(1, total, torch.Generator().manual_seed(0))
        loss = image.new_zeros(len(image), dtype=torch.float32)
        # In parts, so that validation needs no more memory than training.
        for c, p in zip(corner.split(count, dim=1), place.split(count, dim=1), strict=True):
            c, p = c.expand(len(image), -1, -1), p.expand(len(image), -1)
            loss = loss + p.shape[1] / total * self.window_losses(image, c, p)
        return loss

    def _drawn(
        self, images: int, count: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        corner, place = self.windows.draw(images * count, generator)
        device = self.inpaint.device
        return corner.view(images, count, 2).to(device), place.view(images, count).to(device)

    def window_losses(self, image: Tensor, corner: Tensor, place: Tensor) -> Tensor:
        """Eq. 12 averaged over the given windows of each image; see `paint`. [B], float32."""
        config = self.config
        side, (rows, columns) = config.patch, config.grid
        painted = self.paint(image, corner, place)
        cells = image.unflatten(2, (rows, side)).unflatten(4, (columns, side))
        cells = cells.permute(0, 2, 4, 1, 3, 5)  # [B, rows, columns, 3, K, K]
        row = corner[..., 0] + place // config.window
        column = corner[..., 1] + place % config.window
        owner = torch.arange(len(image), device=place.device)[:, None].expand_as(place)
        original = cells[owner, row, column].flatten(0, 1).float()
        loss = (original - painted).square().mean(dim=(1, 2, 3))
        gradients = layers.gms_map(original, painted, config.gms_c)
        structure = 1 - ssim_map(original, painted, config.ssim_window, config.ssim_sigma)
        loss = loss + config.alpha * gradients.mean(dim=(1, 2, 3))
        loss = loss + config.beta * structure.mean(dim=(1, 2, 3))
        return loss.view(place.shape).mean(dim=1)

    def uncalibrated_map(self, image: Tensor) -> Tensor:
        """Eq. 16: how much each pixel's surroundings differ from the painted image.

        Args:
            image: [B, 3, H, W], RGB in [0, 1].

        Returns:
            diff(x, x_hat) [B, 1, H, W], float32.
        """
        config = self.config
        painted = self.reconstruct(image)
        maps = []
        for i, (scale, size) in enumerate(zip(config.scales, config.filter_sizes, strict=True)):
            small = [x if scale == 1 else F.avg_pool2d(x, scale) for x in (image, painted)]
            difference = layers.gms_map(*small, config.gms_c)
            if size > 1:
                # At the border the mean is that of what is there (ours).
                difference = F.avg_pool2d(
                    difference, size, stride=1, padding=size // 2, count_include_pad=False
                )
                difference = layers.gaussian_blur(difference, getattr(self, f"gaussian{i}"))
            if scale > 1:
                difference = F.interpolate(
                    difference, size=config.crop, mode="bilinear", align_corners=False
                )
            maps.append(difference)
        return sum(maps[1:], maps[0]) / len(maps)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: [B, 3, H, W], RGB in [0, 1], H and W as the config's crop.

        Returns:
            score [B], the maximum of the map (eq. 18), and the anomaly map [B, 1, H, W] (eq. 17).
        """
        difference = self.uncalibrated_map(image)
        anomaly_map = layers.calibrate_map(difference, self.mean_map, "square")
        return anomaly_map.amax(dim=(1, 2, 3)), anomaly_map

    def map_fields(self) -> dict:
        """Describe how the maps were smoothed and brought to their size, and what is subtracted."""
        smoothing = {
            "kind": "mean and gaussian",
            "sigma": self.config.gaussian_sigma,
            "size": max(self.config.filter_sizes),
            "sizes": list(self.config.filter_sizes),
            "border": "reflect",
        }
        fields = {"upsample": "bilinear", "align_corners": False, "smoothing": smoothing}
        return {**fields, "calibration": "square"}


def turned(image: Tensor) -> Tensor:
    """Flip and turn each of the images [B, 3, H, W] at random, from torch's global generator.

    All eight ways to lay a square are equally likely; other images are flipped only.
    """
    turns = torch.randint(4, (len(image),)).tolist()
    flips = torch.randint(2, (len(image),)).tolist()
    square = image.shape[2] == image.shape[3]
    result = []
    for x, turn, flip in zip(image, turns, flips, strict=True):
        if square:
            x = x.rot90(turn, (1, 2))
        elif turn % 2:
            x = x.flip(1)
        result.append(x.flip(2) if flip else x)
    return torch.stack(result)
