"""What a training is told, apart from the model's own config."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from adfast.errors import AdfastError
from adfast.images import DEEP_FORMATS
from adfast.models.recipes import OPTIMIZERS, SCHEDULES, recipe


@dataclass(frozen=True)
class TrainSettings:
    """What is None takes the value of the model's recipe, the paper's.

    Attributes:
        model: name of the model.
        config: fields of the model's config that differ from its defaults.
        data: folder in the MVTec layout.
        list_file: text file that lists the good training images; None takes all of train/good.
        labelled: folder with images of known anomalies, test/<defect> and ground_truth/<defect>,
            for models that learn from them; not those that will be tested on.
        pixel_format: of images of 16 bits a sample, one of `adfast.images.DEEP_FORMATS`; empty:
            images of 8 bits.
        weights: of the frozen backbone: a file, "hub" or "none".
        epochs: passes over the training images.
        patience: stop when the validation loss has not improved for so many epochs; 0: never.
        batch: images per step.
        optimizer: "adam" (weight decay added to the gradient) or "adamw".
        lr: initial learning rate.
        schedule: "constant"; "exponential": the rate falls to lr * lr_decay over the whole training
            (GTrans eq. 20); "step": it is lr * lr_decay from the share lr_drop of the epochs on.
        lr_decay: see schedule.
        lr_drop: see schedule.
        weight_decay: of the optimizer.
        fraction: share of the good images that is trained on; the rest validates.
        seed: of the split, the initial weights, the order of the images and dropout.
        precision: "bf16" autocast, "f32", or "auto": bf16 where the processor is faster in it.
        cache: what to keep in memory: "off", "images" (decoded and resized), "features" (images and
            the frozen backbone's features), or "auto": as much of that as fits.
        workers: processes that decode images that are not kept in memory, for each process that
            trains; 0: the training itself decodes. None: one per processor, at most 8.
        device: "cpu", "cuda", or "auto": CUDA where there is one.
        tensorboard: write losses, rate and speed of every epoch to RUN/tensorboard.
    """

    model: str = "gtrans"
    config: dict = field(default_factory=dict)
    data: str = ""
    list_file: str | None = None
    labelled: str | None = None
    pixel_format: str = ""
    weights: str | None = None
    epochs: int | None = None
    patience: int | None = None
    batch: int | None = None
    optimizer: str | None = None
    lr: float | None = None
    schedule: str | None = None
    lr_decay: float | None = None
    lr_drop: float | None = None
    weight_decay: float | None = None
    fraction: float | None = None
    seed: int = 0
    precision: str = "auto"
    cache: str = "auto"
    workers: int | None = None
    device: str = "auto"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot work, with an AdfastError that names the setting."""
        paper = recipe(self.model)
        if self.weights is None:
            object.__setattr__(self, "weights", paper.default_weights)
        for name, value in vars(self).items():
            if value is None and name not in ("list_file", "labelled", "workers"):
                object.__setattr__(self, name, getattr(paper, name))
        rules = {
            "pixel_format": (
                self.pixel_format in ("", *DEEP_FORMATS),
                f"{', '.join(DEEP_FORMATS)}, or nothing for images of 8 bits",
            ),
            "epochs": (self.epochs >= 1, "at least 1"),
            "patience": (self.patience >= 0, "0 (never stop early) or more"),
            "batch": (self.batch >= 1, "at least 1"),
            "optimizer": (self.optimizer in OPTIMIZERS, " or ".join(OPTIMIZERS)),
            "lr": (self.lr > 0, "positive"),
            "schedule": (self.schedule in SCHEDULES, " or ".join(SCHEDULES)),
            "lr_decay": (0 < self.lr_decay <= 1, "in (0, 1]"),
            "lr_drop": (0 < self.lr_drop <= 1, "in (0, 1]"),
            "weight_decay": (self.weight_decay >= 0, "not negative"),
            "fraction": (0 < self.fraction < 1, "between 0 and 1"),
            "precision": (self.precision in ("auto", "bf16", "f32"), "auto, bf16 or f32"),
            "cache": (
                self.cache in ("auto", "off", "images", "features"),
                "auto, off, images or features",
            ),
            "workers": (self.workers is None or self.workers >= 0, "at least 0"),
            "device": (self.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
        }
        for name, (good, expected) in rules.items():
            if not good:
                raise AdfastError(f"[train] {name} is {getattr(self, name)!r}, expected {expected}")

    def to_dict(self) -> dict:
        """Return the fields as JSON types."""
        return dataclasses.asdict(self)
