"""Training on good images: one loop, safetensors and JSON only."""

from adfast.training.loop import train
from adfast.training.settings import TrainSettings

__all__ = ["TrainSettings", "train"]
