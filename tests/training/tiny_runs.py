"""Tiny data sets and settings that train in seconds."""

import signal
from pathlib import Path

import numpy as np
from PIL import Image

from adfast.training import checkpoint
from adfast.training.reporting import Reporter

CONFIG = {"backbone": "resnet18", "crop": [32, 32], "resize": [36, 36], "groups": 2, "dim": 16}
ADTR = {"backbone": "resnet18", "crop": [32, 32], "resize": [32, 32], "levels": [1, 2], "dim": 16}
ADTR |= {"blocks": 1, "heads": 2, "hidden": 24}


def make_images(root: Path, count: int = 10, side: int = 40) -> Path:
    """Write count grey squares on noise to root/train/good."""
    folder = root / "train" / "good"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 80, (side, side + i % 3, 3), dtype=np.uint8)
        pixels[8 + i % 4 : 28, 10:30] += 120
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return root


def settings(root: Path, **changes):
    from adfast.training import TrainSettings

    fields = {"config": CONFIG, "data": str(root), "weights": "none", "epochs": 4, "batch": 3}
    return TrainSettings(**{**fields, **changes})


def assert_losses_agree(run, expected, tolerance):
    """The losses of two runs differ by at most this share of them.

    For runs that compute the same in batches of other sizes, whose last bits then differ.
    """
    histories = [checkpoint.read_history(folder / "history.jsonl") for folder in (run, expected)]
    assert len(histories[0]) == len(histories[1]) > 0
    for a, b in zip(*histories, strict=True):
        for key in ("loss", "validation_loss"):
            assert abs(a[key] - b[key]) <= tolerance * abs(b[key]), (key, a[key], b[key])


class StopAt(Reporter):
    """Presses Ctrl-C after a number of images of the training."""

    def __init__(self, images):
        self.left = None
        self.images = images

    def phase(self, title, total, done=0):
        self.left = self.images if title == "training" else None

    def advance(self, images, loss=None):
        if self.left is not None:
            self.left -= images
            if self.left <= 0:
                self.left = None
                signal.raise_signal(signal.SIGINT)
