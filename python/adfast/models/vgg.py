"""VGG trunks by their timm name, cut after the last convolution that is used, and their weights.

A trunk keeps timm's (and torchvision's) keys: features.0.weight and so on. Its convolutions pad by
reflection, not by zeros as on ImageNet, so that no feature sees an edge that the image does not
have.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from adfast.errors import ModelError
from adfast.models.backbones import (
    fetch_error,
    import_timm,
    load_state,
    read_tensors,
    stop_retries_when_offline,
)


class VGG(nn.Module):
    """The frozen trunk: normalised image [B, 3, H, W] -> one map per chosen convolution.

    Args:
        name: timm's name of a VGG, with or without BatchNorm.
        chosen: convolutions, counted from 1 and rising, whose outputs after ReLU are wanted.
        pretrained: fetch the ImageNet weights from the hub (needs a network or a filled cache).

    Attributes:
        channels: of each chosen map.
        strides: of each chosen map.

    Raises:
        ModelError: no such VGG or convolution, or the weights cannot be fetched.
    """

    def __init__(self, name: str, chosen: Sequence[int], *, pretrained: bool = False) -> None:
        super().__init__()
        timm = import_timm()
        names = timm.list_models("vgg*")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1) or ["vgg19"]
            raise ModelError(
                f"backbone is {name!r}, expected a VGG of timm: {', '.join(names)}; did you mean "
                f"{near[0]}?"
            )
        with torch.device("meta"):
            plan = timm.create_model(name).features
        self.features = nn.Sequential()
        self.taps: list[int] = []  # places in `features` after which a map is taken
        self.channels: list[int] = []
        self.strides: list[int] = []
        convolutions, stride = 0, 1
        for part in plan:
            if len(self.taps) == len(chosen):
                break
            if isinstance(part, nn.Conv2d):
                convolutions += 1
                width = part.out_channels
                part = nn.Conv2d(part.in_channels, width, 3, padding=1, padding_mode="reflect")
                # timm's start, for --weights none: keeps the size of the activations.
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(part.bias)
            elif isinstance(part, nn.BatchNorm2d):
                part = nn.BatchNorm2d(part.num_features)
            elif isinstance(part, nn.MaxPool2d):
                stride *= 2
            elif isinstance(part, nn.ReLU) and convolutions in chosen:
                self.taps.append(len(self.features))
                self.channels.append(width)
                self.strides.append(stride)
            self.features.append(part)
        if len(self.taps) < len(chosen):
            raise ModelError(
                f"backbone {name} has {convolutions} convolutions, layer {chosen[-1]} is none"
            )
        if pretrained:
            stop_retries_when_offline()
            try:
                state = timm.create_model(name, pretrained=True).state_dict()
            except Exception as error:
                raise fetch_error(name, error) from error
            load_state(self, state, name, name)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return maps [B, C_l, H / s_l, W / s_l] of a normalised image [B, 3, H, W]."""
        found = []
        x = image
        for place, part in enumerate(self.features):
            x = part(x)
            if place in self.taps:
                found.append(x)
        return found


def load_vgg(name: str, weights: str, chosen: Sequence[int]) -> tuple[VGG, dict]:
    """Build a trunk and fill it.

    Args:
        name: see `VGG`.
        weights: a file (see `read_tensors`), "hub" (ImageNet weights by timm) or "none" (random).
        chosen: see `VGG`.

    Returns:
        The trunk and where its weights came from, {"source": str, "sha256": str (files only)}.

    Raises:
        ModelError: see `VGG`; or lists the keys of the file that are missing, unknown or of another
            shape. The classifier and convolutions past the last one used are ignored.
    """
    if weights == "hub":
        return VGG(name, chosen, pretrained=True), {"source": f"hub:{name}"}
    trunk = VGG(name, chosen)
    if weights == "none":
        return trunk, {"source": "none (random)"}
    state = read_tensors(weights)
    # torchvision's name of the classifier, which timm calls otherwise.
    state = {key: value for key, value in state.items() if "classifier." not in key}
    load_state(trunk, state, str(weights), name)
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return trunk, {"source": Path(weights).name, "sha256": digest}
