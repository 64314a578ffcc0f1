"""CutPaste: damage made of a piece of the image itself (Li et al., 2021), for HaloAE's block A.

A rectangle, or a thin turned "scar", is cut out, its colours are changed a little, and it is pasted
somewhere else. Ranges are those of CutPaste's section 2.2 as shares of the image, so that they do
not depend on its size; its hue is left alone (ours).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """What pieces look like.

    Attributes:
        area: share of the image's area, from and to; None: `sides` say it.
        aspect: height over width, from and to, or its inverse; used with `area`.
        sides: (height, width) as shares of the image's height, each from and to.
        turn: largest angle in degrees, either way.
        jitter: of the colours; see `color_jitter`.
    """

    area: tuple[float, float] | None = None
    aspect: tuple[float, float] = (1.0, 1.0)
    sides: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    turn: float = 0.0
    jitter: float = 0.1


RECTANGLE = Piece(area=(0.02, 0.15), aspect=(1.0, 3.3))
# 10 to 25 by 2 to 16 pixels at 256.
SCAR = Piece(sides=((10 / 256, 25 / 256), (2 / 256, 16 / 256)), turn=45.0)


def cutpaste(
    images: Tensor, piece: Piece, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Paste a piece of every image somewhere else into it.

    Args:
        images: [B, 3, H, W], RGB in [0, 1]; not changed.
        piece: `RECTANGLE`, `SCAR` or another kind.
        generator: of the random numbers, on the CPU; None takes PyTorch's own.

    Returns:
        The damaged images, and masks [B, 1, H, W], bool: where the piece lies. Every image has at
        least one pixel of it.
    """
    damaged = images.clone()
    height, width = images.shape[2:]
    masks = torch.zeros(len(images), 1, height, width, dtype=torch.bool, device=images.device)
    # Per image: size and shape (3), angle, where from (2), where to (2), colours (3).
    draws = torch.rand(len(images), 11, generator=generator)
    for image, target, mask, draw in zip(images, damaged, masks, draws, strict=True):
        *shape, turn, from_y, from_x, to_y, to_x = draw[:8].tolist()
        sides = _sides(piece, shape, height, width)
        angle = math.radians(piece.turn * (2 * turn - 1))
        cos, sin = math.cos(angle), math.sin(angle)
        # The piece is upright where it is cut out and turned where it is pasted. Both of its
        # bounding boxes lie in the image.
        bounds = (
            abs(cos) * sides[0] + abs(sin) * sides[1],
            abs(sin) * sides[0] + abs(cos) * sides[1],
        )
        cut = from_y * (height - sides[0]), from_x * (width - sides[1])
        top = to_y * max(0.0, height - bounds[0])
        left = to_x * max(0.0, width - bounds[1])
        centre = top + bounds[0] / 2, left + bounds[1] / 2
        rows = slice(math.floor(top), min(height, math.ceil(top + bounds[0]) + 1))
        columns = slice(math.floor(left), min(width, math.ceil(left + bounds[1]) + 1))
        # Middles of the pixels around the target, from the centre of the piece, turned back.
        y = torch.arange(rows.start, rows.stop, dtype=torch.float64)[:, None] + 0.5 - centre[0]
        x = torch.arange(columns.start, columns.stop, dtype=torch.float64) + 0.5 - centre[1]
        y, x = cos * y + sin * x + sides[0] / 2, cos * x - sin * y + sides[1] / 2
        inside = (y >= 0) & (y < sides[0]) & (x >= 0) & (x < sides[1])
        source_y = (cut[0] + y[inside]).long().clamp(0, height - 1).to(image.device)
        source_x = (cut[1] + x[inside]).long().clamp(0, width - 1).to(image.device)
        inside = inside.to(image.device)
        pixels = image[:, source_y, source_x]
        target[:, rows, columns][:, inside] = _jitter(
            pixels[None, :, :, None], draw[None, 8:], piece.jitter
        )[0, :, :, 0]
        mask[0, rows, columns] = inside
    return damaged, masks


def color_jitter(
    images: Tensor, strength: float, generator: torch.Generator | None = None
) -> Tensor:
    """Change brightness, contrast and saturation of every image a little.

    Args:
        images: [B, 3, H, W], RGB in [0, 1]; not changed.
        strength: each is multiplied by a factor within 1 - strength and 1 + strength.
        generator: of the random numbers, on the CPU; None takes PyTorch's own.

    Returns:
        [B, 3, H, W], in [0, 1].
    """
    return _jitter(images, torch.rand(len(images), 3, generator=generator), strength)


def _jitter(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    factors = 1 + strength * (2 * draws.to(images) - 1)
    brightness, contrast, saturation = factors.T[:, :, None, None, None]
    images = images * brightness
    grey = images.mean(dim=1, keepdim=True)
    images = grey + saturation * (images - grey)
    middle = grey.mean(dim=(2, 3), keepdim=True)
    return (middle + contrast * (images - middle)).clamp(0, 1)


def _sides(piece: Piece, draws: list[float], height: int, width: int) -> tuple[float, float]:
    """Return a piece's height and width in pixels: at least 2, so one holds a pixel's middle."""
    if piece.area is None:
        sides = [low + d * (high - low) for (low, high), d in zip(piece.sides, draws, strict=False)]
        h, w = sides[0] * height, sides[1] * height
    else:
        area = (piece.area[0] + draws[0] * (piece.area[1] - piece.area[0])) * height * width
        aspect = piece.aspect[0] + draws[1] * (piece.aspect[1] - piece.aspect[0])
        aspect = aspect if draws[2] < 0.5 else 1 / aspect
        h, w = math.sqrt(area * aspect), math.sqrt(area / aspect)
    return min(max(h, 2.0), height), min(max(w, 2.0), width)
