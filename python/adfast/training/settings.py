"""What a training is told, apart from the model's own config."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from adfast.errors import AdfastError


@dataclass(frozen=True)
class TrainSettings:
    """Defaults are those of the GTrans paper (section 4.2).

    Attributes:
        model: name of the model.
        config: fields of the model's config that differ from its defaults.
        data: folder in the MVTec layout.
        list_file: text file that lists the good training images; None takes all of train/good.
        weights: of the frozen backbone: a file, "hub" or "none".
        epochs: passes over the training images.
        batch: images per step.
        lr: initial learning rate.
        lr_decay: the rate falls to lr * lr_decay over the whole training, exponentially (eq. 20).
        weight_decay: of Adam, added to the gradient.
        fraction: share of the good images that is trained on; the rest validates.
        seed: of the split, the initial weights and the order of the images.
        precision: "bf16" autocast, "f32", or "auto": bf16 where the processor computes in it.
        cache: what to keep in memory: "off", "images" (decoded and resized), "features" (images and
            the frozen backbone's features), or "auto": as much of that as fits.
        device: "cpu", "cuda", or "auto": CUDA where there is one.
    """

    model: str = "gtrans"
    config: dict = field(default_factory=dict)
    data: str = ""
    list_file: str | None = None
    weights: str = "hub"
    epochs: int = 300
    batch: int = 32
    lr: float = 1e-3
    lr_decay: float = 0.9
    weight_decay: float = 1e-4
    fraction: float = 0.8
    seed: int = 0
    precision: str = "auto"
    cache: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse values that cannot work, with an AdfastError that names the setting."""
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "lr": (self.lr > 0, "positive"),
            "lr_decay": (0 < self.lr_decay <= 1, "in (0, 1]"),
            "weight_decay": (self.weight_decay >= 0, "not negative"),
            "fraction": (0 < self.fraction < 1, "between 0 and 1"),
            "precision": (self.precision in ("auto", "bf16", "f32"), "auto, bf16 or f32"),
            "cache": (
                self.cache in ("auto", "off", "images", "features"),
                "auto, off, images or features",
            ),
            "device": (self.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
        }
        for name, (good, expected) in rules.items():
            if not good:
                raise AdfastError(f"[train] {name} is {getattr(self, name)!r}, expected {expected}")

    def to_dict(self) -> dict:
        """Return the fields as JSON types."""
        return dataclasses.asdict(self)
