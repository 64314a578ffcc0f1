"""Confetti noise: synthetic anomalies for ADTR+ (section 4.1 and figure 3 of its paper).

The paper follows FCDD and shows pictures only. Ours: an image gets a few upright or turned
rectangles, each of one colour, anywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PIECES = (1, 12)
SIDES = (0.02, 0.12)  # of a piece, as shares of the image's shorter side


def confetti(images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Strew confetti over images.

    Args:
        images: [B, 3, H, W], RGB in [0, 1]; not changed.
        generator: of the random numbers, on the CPU; None takes PyTorch's own.

    Returns:
        The images with confetti, and masks [B, 1, H, W], bool: where it lies. Every image has at
        least one pixel of it.
    """
    noisy = images.clone()
    height, width = images.shape[2:]
    masks = torch.zeros(len(images), 1, height, width, dtype=torch.bool)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for image, mask in zip(noisy, masks, strict=True):
        count = int(torch.randint(PIECES[0], PIECES[1] + 1, (), generator=generator))
        # Per piece: centre (2), sides (2), angle, colour (3).
        for y, x, h, w, turn, *colour in torch.rand(count, 8, generator=generator).tolist():
            # Around the middle of a pixel, so that the smallest piece covers one.
            dy, dx = rows - int(y * height), columns - int(x * width)
            cos, sin = math.cos(math.pi * turn), math.sin(math.pi * turn)
            sides = [(SIDES[0] + s * (SIDES[1] - SIDES[0])) * min(height, width) for s in (h, w)]
            inside = (cos * dy + sin * dx).abs() <= sides[0] / 2
            inside &= (cos * dx - sin * dy).abs() <= sides[1] / 2
            mask |= inside
            tint = torch.tensor(colour, dtype=image.dtype, device=image.device)
            image[:, inside.to(image.device)] = tint[:, None]
    return noisy, masks.to(images.device)
