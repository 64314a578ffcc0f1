"""The colours of anomaly maps: dark violet to red to pale yellow, lightness rising evenly.

The table is computed, not listed: a path through Oklch (Ottosson, 2020) whose lightness is linear,
so equal steps of the map look like equal steps and a grey print keeps the order.
"""

from __future__ import annotations

import functools

import numpy as np

# Oklab to linear sRGB, in two steps around a cube (Ottosson, "A perceptual color space", 2020).
_LAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@functools.cache
def table() -> np.ndarray:
    """Return the colour table, uint8 (256, 3), read-only."""
    t = np.linspace(0, 1, 256)
    lightness = 0.16 + 0.80 * t
    chroma = 0.19 * np.sin(np.pi * (0.12 + 0.80 * t)) ** 0.8
    hue = np.deg2rad(np.interp(t, [0, 0.25, 0.5, 0.75, 1], [290, 335, 385, 425, 465]))
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    linear = np.clip((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T, 0, 1)
    encoded = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )
    colours = np.round(255 * encoded).astype(np.uint8)
    colours.setflags(write=False)
    return colours


def colorize(values: np.ndarray) -> np.ndarray:
    """Colour values in [0, 1] (clipped; NaN is 0), any shape -> uint8 (..., 3)."""
    clean = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
    return table()[np.clip(np.rint(clean * 255), 0, 255).astype(np.uint8)]
