"""A frame, its anomaly map and its verdict in one picture, and the raw map as a 16-bit image.

numpy only. Letters are drawn from a 5 x 7 dot font listed below: a line PC has no fonts to rely on.
"""

from __future__ import annotations

import numpy as np

from adfast.colormap import colorize
from adfast.errors import FrameError

RED, GREEN, GREY = (200, 45, 40), (38, 128, 72), (90, 96, 104)

# Seven rows of five dots per letter, rows top to bottom, "1" a dot.
_FONT = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "B": "11110 10001 10001 11110 10001 10001 11110",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "D": "11110 10001 10001 10001 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "N": "10001 11001 10101 10011 10001 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110",
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
    ".": "00000 00000 00000 00000 00000 01100 01100",
    "-": "00000 00000 00000 11111 00000 00000 00000",
    "+": "00000 00100 00100 11111 00100 00100 00000",
    ">": "01000 00100 00010 00001 00010 00100 01000",
    "<": "00010 00100 01000 10000 01000 00100 00010",
    "=": "00000 00000 11111 00000 11111 00000 00000",
    " ": "00000 00000 00000 00000 00000 00000 00000",
}


def full_scale(map_: np.ndarray, threshold: float | None) -> float:
    """Return the value of the brightest colour: twice the threshold, or the map's largest."""
    if threshold is not None and threshold > 0:
        return 2.0 * threshold
    largest = float(map_.max(initial=0.0))
    return largest if largest > 0 else 1.0


def brightness(map_: np.ndarray, scale: float) -> np.ndarray:
    """Return sqrt(map / scale) within [0, 1], NaN as 0: float32 of the map's shape.

    Scores of squared distances, and products of them, span decades: on a square-root scale a
    defect at a tenth of the threshold is still seen.
    """
    return np.sqrt(np.clip(np.nan_to_num(map_ / scale), 0, 1)).astype(np.float32)


def map_picture(map_: np.ndarray, scale: float) -> np.ndarray:
    """Colour a map (H, W) so that `scale` is the brightest colour -> uint8 (H, W, 3)."""
    return colorize(brightness(map_, scale))


def overlay(
    frame: np.ndarray,
    map_: np.ndarray,
    *,
    scale: float,
    mask: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> np.ndarray:
    """Blend the coloured map over a frame; the quieter the map, the more of the frame shows.

    Args:
        frame: uint8 (H, W) or (H, W, 3).
        map_: float (H, W), the anomaly map.
        scale: map value of the brightest colour, see `full_scale`.
        mask: bool (H, W), pixels over the threshold; its edge is drawn in white.
        truth: bool (H, W), labelled defect; its edge is drawn in cyan.

    Returns:
        uint8 (H, W, 3).
    """
    if frame.shape[:2] != map_.shape:
        raise FrameError(f"overlay: the map is {map_.shape}; the frame is {frame.shape[:2]}")
    base = as_rgb(frame).astype(np.float32)
    level = brightness(map_, scale)[..., None]
    # Half the base's colour is taken away, so that colour means map; a map at the level of good
    # images (a sixteenth of the scale) leaves the frame as it is.
    weight = 0.75 * np.clip((level - 0.25) / 0.5, 0, 1)
    grey = 0.5 * base + 0.5 * base.mean(axis=2, keepdims=True)
    out = grey * (1 - weight) + colorize(level[..., 0]) * weight
    thickness = max(1, min(frame.shape[:2]) // 300)
    for area, colour in ((truth, (0, 220, 230)), (mask, (255, 255, 255))):
        if area is not None:
            out[edge(area, thickness)] = colour
    return np.round(out).astype(np.uint8)


def edge(mask: np.ndarray, thickness: int = 1) -> np.ndarray:
    """Return the inner edge of a mask, `thickness` pixels wide: bool (H, W) -> bool (H, W)."""
    inner = np.asarray(mask, bool)
    for _ in range(thickness):
        padded = np.pad(inner, 1)
        inner = (
            padded[1:-1, 1:-1]
            & padded[:-2, 1:-1]
            & padded[2:, 1:-1]
            & padded[1:-1, :-2]
            & padded[1:-1, 2:]
        )
    return np.asarray(mask, bool) & ~inner


def with_verdict(
    picture: np.ndarray, score: float, threshold: float | None, anomalous: bool | None
) -> np.ndarray:
    """Put a band with verdict, score and threshold under a picture, uint8 (H, W, 3)."""
    width = picture.shape[1]
    if anomalous is None:
        words, colour = ("SCORE", number(score)), GREY
    else:
        words = ("ANOMALOUS" if anomalous else "NORMAL", number(score))
        words += (">" if score > threshold else "<=", number(threshold))
        colour = RED if anomalous else GREEN
    text = " ".join(words).upper()
    size = max(1, width // 170)
    room = width - 6 * size
    while 6 * size * len(text) > room and " " in text:
        text = text.rsplit(" ", 1)[0]  # a narrow picture keeps the verdict, then the score
    band = np.full((13 * size, width, 3), colour, np.uint8)
    letters = _letters(text, size)[:, : max(0, room)]
    band[3 * size : 10 * size, 3 * size : 3 * size + letters.shape[1]][letters] = 255
    return np.concatenate([picture, band])


def number(value: float) -> str:
    """Write a score with four significant digits."""
    return f"{value:.4g}"


def as_rgb(frame: np.ndarray) -> np.ndarray:
    """View a frame as (H, W, 3); grey frames are repeated."""
    if frame.ndim == 2:
        return np.repeat(frame[..., None], 3, axis=2)
    return frame


def shrink(picture: np.ndarray, limit: int) -> np.ndarray:
    """Average whole blocks until no side exceeds `limit`: uint8 (H, W, 3) -> uint8 (h, w, 3)."""
    step = -(-max(picture.shape[:2]) // limit)
    if step <= 1:
        return picture
    height, width = (max(1, side // step) for side in picture.shape[:2])
    tall, wide = min(step, picture.shape[0]), min(step, picture.shape[1])
    blocks = picture[: height * tall, : width * wide].reshape(height, tall, width, wide, 3)
    return np.round(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)


def map_to_uint16(map_: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Quantise a map to 16 bits -> (stored uint16 (H, W), scale, offset).

    The map is offset + scale * stored.
    """
    low, high = float(map_.min()), float(map_.max())
    scale = (high - low) / 65535
    if not np.isfinite(scale):
        raise FrameError("the map holds values that are not finite; run `adfast selftest`")
    stored = np.rint((map_.astype(np.float64) - low) / scale) if scale > 0 else np.zeros(map_.shape)
    return np.clip(stored, 0, 65535).astype(np.uint16), scale, low


def _letters(text: str, size: int) -> np.ndarray:
    """Draw text -> bool (7 * size, 6 * size * len(text))."""
    rows = [
        np.array([[dot == "1" for dot in row + "0"] for row in _FONT.get(c, _FONT[" "]).split()])
        for c in text
    ]
    return np.concatenate(rows, axis=1).repeat(size, axis=0).repeat(size, axis=1)
