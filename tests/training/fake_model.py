"""A model of a few numbers that uses what the papers' models rarely do: no frozen part, random
losses, several visits per epoch, a loss that follows the epoch, a mean map."""

import sys
import types
from dataclasses import dataclass

import torch
from torch import nn

from adfast import models
from adfast.models.detector import Config, Detector
from adfast.models.recipes import RECIPES, Recipe


@dataclass(frozen=True)
class FakeConfig(Config):
    bias: float = 0.0
    mean_map_images: int | None = None
    resize: tuple[int, int] = (20, 24)
    crop: tuple[int, int] = (16, 16)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    name = "fake"

    def __post_init__(self):
        self.make_tuples("resize", "crop", "mean", "std")


class Fake(Detector):
    keeps_features = False
    visits = 3
    has_mean_map = True
    log: list = []  # what the training did, for tests to look at

    def __init__(self, config):
        super().__init__(config)
        self.colour = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.register_buffer("mean_map", torch.zeros(1, 1, 16, 16), persistent=False)
        self.weight = None
        self.train(False)

    @classmethod
    def from_weights(cls, config, weights):
        return cls(config), {"source": "none"}

    def frozen_features(self, image):
        return []

    def begin_epoch(self, epoch, epochs):
        self.weight = 1.0 + epoch / epochs
        self.log.append(("epoch", epoch, epochs, self.training))

    def losses(self, image, features=None):
        assert features is None and self.weight is not None
        if self.training:
            self.log.append(("images", image.mean(dim=(1, 2, 3)).tolist(), self.weight))
            image = image + 0.1 * torch.rand(len(image), 1, 1, 1)
        return self.weight * (image - self.colour).square().mean(dim=(1, 2, 3))

    def uncalibrated_map(self, image):
        assert not self.training
        return (image - self.colour).square().mean(dim=1, keepdim=True) + self.config.bias

    def forward(self, image):
        found = (self.uncalibrated_map(image) - self.mean_map).abs()
        return found.amax(dim=(1, 2, 3)), found


def register(monkeypatch):
    """Make `fake` a model like the others for one test."""
    module = types.ModuleType("adfast.models.fake")
    module.Fake, module.FakeConfig = Fake, FakeConfig
    monkeypatch.setitem(sys.modules, "adfast.models.fake", module)
    monkeypatch.setitem(models.MODELS, "fake", "Fake")
    paper = Recipe(paper="none", optimizer="adam", lr=0.01, batch=4, epochs=3, size=16, resize=20)
    monkeypatch.setitem(RECIPES, "fake", paper)
    Fake.log.clear()
