"""What every model is to training, export and build, whatever its paper.

A paper's file derives `Config` and `Detector` and fills in what is its own; see `adtr.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from adfast.errors import ModelError


class Config:
    """Base of the configs: frozen dataclasses with `resize`, `crop`, `mean` and `std`.

    Attributes:
        name: the model's name; a class attribute.
    """

    name: str

    @classmethod
    def from_dict(cls, fields: dict) -> Config:
        """Build a config from JSON types; a ModelError names unknown fields."""
        unknown = sorted(fields.keys() - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ModelError(f"[{cls.name}] unknown config fields: {', '.join(unknown)}")
        return cls(**fields)

    def to_dict(self) -> dict:
        """Return the fields as JSON types."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    def make_tuples(self, *fields: str) -> None:
        """Turn lists, as JSON has them, into tuples."""
        for field in fields:
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, tuple(value))

    def check(self, rules: dict[str, tuple[bool, str]]) -> None:
        """Raise a ModelError for the first field whose rule (is it good, what is) is broken."""
        for field, (good, expected) in rules.items():
            if not good:
                raise ModelError(
                    f"[{self.name}] {field} is {getattr(self, field)!r}, expected {expected}"
                )

    def check_frame(self, smallest: int) -> None:
        """Check resize, crop (sides of at least `smallest`), mean and std."""
        self.check(
            {
                "crop": (
                    len(self.crop) == 2 and min(self.crop) >= smallest,
                    f"two sides of at least {smallest}",
                ),
                "resize": (
                    len(self.resize) == 2 and all(map(int.__ge__, self.resize, self.crop)),
                    f"at least the crop {list(self.crop)}",
                ),
                "mean": (len(self.mean) == 3, "three numbers"),
                "std": (len(self.std) == 3 and min(self.std) > 0, "three positive numbers"),
            }
        )


class Detector(nn.Module):
    """Base of the models: forward(image [B, 3, H, W] in [0, 1]) -> score [B], map [B, 1, H, W].

    Attributes:
        frozen: names of the submodules that keep their weights and stay in eval mode.
        keeps_features: False where frozen features depend on random augmentation: a training then
            never keeps them, and calls `losses(image, None)`.
        visits: how often an epoch shows every training image.
        has_mean_map: the model has a buffer `mean_map` [1, 1, h, w], float32, not persistent, zeros
            until it is settled, and a method `uncalibrated_map` (image [B, 3, H, W] to
            [B, 1, h, w]): the map whose mean over the *training* images is `mean_map`.
            `models.load_run` settles it.
        takes_labelled: the model learns from images with known anomalies too. It has a method
            `labelled_losses(image [B, 3, H, W], labels [B, 1, *config.grid]) -> [B]`, and its
            config has `labels`, "pixel" if it needs masks, and `labelled_share`, of a batch.
    """

    frozen: tuple[str, ...] = ()
    keeps_features: bool = True
    visits: int = 1
    has_mean_map: bool = False
    takes_labelled: bool = False

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        for name in ("mean", "std"):
            values = torch.tensor(getattr(config, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @classmethod
    def from_weights(cls, config, weights: str) -> tuple[Detector, dict]:
        """Build an untrained model whose frozen part has weights.

        Args:
            config: the model's config.
            weights: a file, "hub" or "none".

        Returns:
            The model, and where its weights came from, {"source": str, "sha256": str (files only)}.
        """
        raise NotImplementedError

    def train(self, mode: bool = True) -> Detector:
        """Set the training mode of everything that is not frozen."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval().requires_grad_(False)
        return self

    def normalize(self, image: Tensor) -> Tensor:
        """Turn RGB in [0, 1] into what the backbone was trained on."""
        return (image - self.mean) / self.std

    def frozen_features(self, image: Tensor) -> list[Tensor]:
        """Compute what a training may keep of an image: [B, ...] each, without a gradient.

        A model without a frozen part returns an empty list.

        Nothing in a frozen part requires a gradient, so none is recorded: no torch.no_grad()
        needed, which would also hide the module names from the exporter.
        """
        raise NotImplementedError

    def prepare(self, features: Iterable[list[Tensor]]) -> None:
        """Settle, before training, what depends on the good images: called once.

        Args:
            features: `frozen_features` of the training images, batch by batch, on the CPU. A model
                that needs them may add parameters and replace its config here.
        """

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Learn, before every epoch of a training, resumed ones too, which it is: 0-based."""

    def losses(self, image: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Return the paper's loss of each image [B], float32; `features`: frozen ones if known."""
        raise NotImplementedError

    def loss(self, image: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Return what is trained on: the loss averaged over the batch, a scalar, float32."""
        return self.losses(image, features).mean()

    def measure(self, image: Tensor, features: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Per image [B, ...] what validation needs: "loss", and what `conclude` asks for."""
        return {"loss": self.losses(image, features)}

    def conclude(self, measured: dict[str, Tensor]) -> dict:
        """Settle, after training, what depends on held-out good images.

        Args:
            measured: what `measure` gave, float64, all validation images together.

        Returns:
            What the run's history and config.json should say of it, as JSON types.
        """
        return {}

    def map_fields(self) -> dict:
        """Describe the map's last steps for the exported file: upsampling, smoothing."""
        raise NotImplementedError

    def score_fields(self) -> dict:
        """Describe for the exported file how the map becomes the score."""
        return {"reduction": "max"}

    def extra_fields(self) -> dict:
        """Return further metadata of the exported file."""
        return {}
