"""Training on good images: one loop, safetensors and JSON only."""

from adfast.openmp import brief_waits

with brief_waits():
    import torch  # noqa: F401

from adfast.training.loop import train
from adfast.training.settings import TrainSettings

__all__ = ["TrainSettings", "train"]
