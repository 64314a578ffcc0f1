"""Pictures of a machined part, good and defective, with masks: what the demo trains and tests on.

The part is a turned steel flange in a fixture: a disc with a bevelled rim, a bore, six counter-sunk
holes and a raised hub, photographed from above under two lamps. A height field is lit by a small
reflection model (diffuse, Blinn-Phong and the anisotropic lobe of Ward, 1992, for the turned face),
so that scratches and dents glint as such things do. Every image differs in position, angle, light,
focus, turning marks and sensor noise; the same seed gives the same images on every machine of one
numpy version.

The figures measured on these images say that the chain works, and nothing about real factories.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adfast.errors import DataError
from adfast.files import atomic_write
from adfast.images import write_png

#: Side of the generated images in pixels.
SIZE = 256
# Geometry in units of half the picture: 1 is the picture's edge.
_RIM, _BORE, _HUB, _HOLE_CIRCLE, _HOLE = 0.86, 0.20, 0.36, 0.61, 0.088


@dataclass
class _Part:
    """The state a defect works on; all fields are float32 (H, W) in picture coordinates."""

    x: np.ndarray  # part coordinates, after shift and rotation
    y: np.ndarray
    height: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray
    tint: np.ndarray  # 0 metal, 1 organic brown
    solid: np.ndarray  # 1 where there is metal, 0 in bore, holes and outside
    holes: list[tuple[float, float]]


def make_scene(
    rng: np.random.Generator, defect: str | None = None, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture.

    Args:
        rng: source of every variation.
        defect: None for a good part, or a key of `DEFECTS`.
        size: side in pixels.

    Returns:
        The picture, uint8 (size, size, 3) RGB, and the mask of the defect, bool (size, size).
    """
    over = 2  # rendered at twice the side and averaged: edges and scratches are anti-aliased
    part = _make_part(rng, size * over)
    mask = np.zeros(part.x.shape, np.float32)
    if defect is not None:
        if defect not in DEFECTS:
            raise DataError(f"unknown defect {defect!r}; known: {', '.join(DEFECTS)}")
        mask = DEFECTS[defect](part, rng)
    picture = _light(part, rng)
    picture = picture.reshape(size, over, size, over, 3).mean(axis=(1, 3))
    picture = _camera(picture, rng)
    # The mask marks pixels of which at least a third is touched.
    return picture, mask.reshape(size, over, size, over).mean(axis=(1, 3)) > 0.33


def generate(
    root: str | os.PathLike[str],
    *,
    train: int = 120,
    good: int = 30,
    per_defect: int = 8,
    size: int = SIZE,
    seed: int = 0,
) -> Path:
    """Write a data set in the MVTec AD layout under `root`.

    `train/good`, `test/good`, `test/<defect>` and `ground_truth/<defect>/<stem>_mask.png`;
    `scenes.json` says how it was made and comes last, so its presence means the set is complete. A
    folder that already holds the same set is left as it is.

    Raises:
        DataError: `root` holds a different set.
    """
    root = Path(root)
    recipe = {
        "generator": "adfast.data.scenes",
        "version": 1,
        "counts": {"train": train, "good": good, "per_defect": per_defect},
        "defects": list(DEFECTS),
        "size": size,
        "seed": seed,
    }
    done = root / "scenes.json"
    if done.exists():
        if json.loads(done.read_text(encoding="utf-8")) == recipe:
            return root
        raise DataError(f"{root}: holds other generated scenes; remove the folder or name another")
    groups = [("train", "good", train), ("test", "good", good)]
    groups += [("test", defect, per_defect) for defect in DEFECTS]
    for group, (split, label, count) in enumerate(groups):
        folder = root / split / label
        folder.mkdir(parents=True, exist_ok=True)
        truth = root / "ground_truth" / label
        if label != "good":
            truth.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            rng = np.random.default_rng([seed, group, index])
            picture, mask = make_scene(rng, None if label == "good" else label, size)
            write_png(folder / f"{index:03d}.png", picture)
            if label != "good":
                write_png(truth / f"{index:03d}_mask.png", 255 * mask.astype(np.uint8))
    with atomic_write(done, "w") as file:
        json.dump(recipe, file, indent=1)
    return root


def _step(distance: np.ndarray, width: float) -> np.ndarray:
    """Rise smoothly from 0 to 1 while `distance` goes from -width / 2 to width / 2."""
    t = np.clip(distance / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _noise(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Smooth noise of about unit variance: `cells` random values a side, cubic in between."""
    grid = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    at = np.linspace(0, cells - 1e-3, side, dtype=np.float32)
    cell, t = at.astype(int), at % 1
    # Uniform cubic B-spline weights; 1.5 undoes most of the variance they average away.
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1
    )
    rows = sum(weights[:, k, None] * grid[cell + k] for k in range(4))
    return sum((weights[:, k] * (1.5 / 36)) * rows[:, cell + k] for k in range(4))


def _make_part(rng: np.random.Generator, side: int) -> _Part:
    axis = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
    px, py = np.meshgrid(axis, axis)
    # The fixture leaves the part a little play, and no more than that.
    angle = math.radians(rng.uniform(-1.2, 1.2))
    dx, dy = rng.uniform(-0.01, 0.01), rng.uniform(-0.01, 0.01)
    c, s = math.cos(angle), math.sin(angle)
    x, y = c * (px - dx) + s * (py - dy), -s * (px - dx) + c * (py - dy)
    r = np.hypot(x, y)
    holes = [
        (_HOLE_CIRCLE * math.cos(math.radians(a)), _HOLE_CIRCLE * math.sin(math.radians(a)))
        for a in range(15, 375, 60)
    ]
    # Heights in the same unit: the disc, its bevel, the hub and the countersinks.
    height = 0.10 * _step(_RIM - r, 0.05) + 0.035 * _step(_HUB - r, 0.025)
    height -= 0.04 * _step(_BORE + 0.025 - r, 0.03)
    solid = _step(_RIM + 0.01 - r, 0.01) * _step(r - _BORE, 0.008)
    for hx, hy in holes:
        d = np.hypot(x - hx, y - hy)
        height -= 0.045 * _step(_HOLE + 0.022 - d, 0.035)
        solid *= _step(d - _HOLE, 0.008)
    # Turning marks: a fine spiral profile, new for every part, nearly constant around it.
    rings = rng.standard_normal(900).astype(np.float32)
    fine = np.interp(r, np.linspace(0, 1.5, 900), rings).astype(np.float32)
    broad = np.interp(r, np.linspace(0, 1.5, 90), rng.standard_normal(90)).astype(np.float32)
    albedo = 0.62 + 0.012 * fine + 0.012 * broad + 0.010 * _noise(rng, side, 9)
    gloss = np.ones_like(r) + 0.07 * fine + 0.05 * broad
    zero = np.zeros_like(r)
    return _Part(x, y, height, albedo, gloss, zero, solid, holes)


def _light(part: _Part, rng: np.random.Generator) -> np.ndarray:
    """Shade the part -> linear RGB float32 (H, W, 3)."""
    side = part.x.shape[0]
    gy, gx = np.gradient(part.height, 2 / side)
    nz = 1 / np.sqrt(1 + gx * gx + gy * gy)
    nx, ny = -gx * nz, -gy * nz
    r = np.maximum(np.hypot(part.x, part.y), 1e-3)
    # Tangent of the turning marks; light across them spreads, light along them does not.
    tx, ty = -part.y / r, part.x / r
    lit, shine = np.full_like(r, 0.13), np.zeros_like(r)
    for azimuth, elevation, power in ((-128, 48, 0.80), (35, 62, 0.45)):
        azimuth = math.radians(azimuth + rng.normal(0, 0.8))
        elevation = math.radians(elevation + rng.normal(0, 0.5))
        power *= 1 + rng.normal(0, 0.02)
        lx = math.cos(azimuth) * math.cos(elevation)
        ly = math.sin(azimuth) * math.cos(elevation)
        lz = math.sin(elevation)
        # The camera looks straight down, so the half vector leans half as far as the lamp.
        length = math.hypot(lx, ly, lz + 1)
        hx, hy, hz = lx / length, ly / length, (lz + 1) / length
        diffuse = np.clip(nx * lx + ny * ly + nz * lz, 0, None)
        n_half = np.clip(nx * hx + ny * hy + nz * hz, 1e-3, None)
        along = (tx * hx + ty * hy) / n_half
        across = np.clip(1 / (n_half * n_half) - 1 - along * along, 0, None)
        lobe = np.exp(-((along / 0.13) ** 2) - across / 0.60**2)
        lit += 0.34 * power * diffuse
        shine += 0.5 * power * (1.25 * lobe + 0.40 * n_half**90)
    shine *= part.gloss * (1 - 0.75 * part.tint)
    warm = 1 + rng.normal(0, 0.006)
    metal = np.array([warm, 1, 1.02 * (2 - warm)], np.float32)
    brown = np.array([0.62, 0.46, 0.28], np.float32)
    lit *= part.albedo
    out = (lit * (1 - part.tint) + shine)[..., None] * metal
    out += (lit * part.tint)[..., None] * brown
    # The mat below: dark rubber, out of focus, in the part's shadow near the rim; holes look onto
    # it.
    mat = 0.030 + 0.004 * _noise(rng, side, 40) + 0.004 * _noise(rng, side, 6)
    shadow = 0.35 + 0.65 * _step(np.hypot(part.x - 0.03, part.y - 0.04) - _RIM - 0.04, 0.16)
    inside = np.where(r < _RIM, 0.55, 1.0)
    floor = (mat * shadow * inside)[..., None] * np.array([0.95, 1.0, 1.08], np.float32)
    out = floor + part.solid[..., None] * (out - floor)
    # Uneven field of light, and the whole exposure.
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    field = 1 + rng.normal(0, 0.01) * axis[None, :] + rng.normal(0, 0.01) * axis[:, None]
    return (out * field[..., None] * (1 + rng.normal(0, 0.015))).astype(np.float32)


def _camera(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lens blur, sensor noise, tone curve: linear RGB (H, W, 3) -> uint8."""
    blur = float(np.clip(rng.normal(0.5, 0.1), 0.2, 0.8))
    taps = np.exp(-0.5 * (np.arange(-2, 3) / max(blur, 0.3)) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (0, 1):
        pad = [(2, 2) if a == axis else (0, 0) for a in range(3)]
        wide = np.pad(linear, pad, mode="edge")
        linear = sum(
            tap * np.take(wide, np.arange(k, k + linear.shape[axis]), axis=axis)
            for k, tap in enumerate(taps)
        )
    # Photon noise grows with the root of the light, read noise is constant.
    grain = rng.standard_normal(linear.shape).astype(np.float32)
    linear = linear + grain * np.sqrt(1.0e-4 * np.clip(linear, 0, None) + 4e-6)
    tone = 1 - np.exp(
        -1.5 * np.clip(linear, 0, None)
    )  # a soft shoulder instead of burnt highlights
    return np.round(255 * np.clip(tone, 0, 1) ** (1 / 2.0)).astype(np.uint8)


def _face_point(
    rng: np.random.Generator, low: float = 0.42, high: float = 0.78
) -> tuple[float, float]:
    """Pick a point of the flange's face that is not in a hole."""
    while True:
        r, a = math.sqrt(rng.uniform(low**2, high**2)), rng.uniform(0, 2 * math.pi)
        x, y = r * math.cos(a), r * math.sin(a)
        around = np.deg2rad(15 + 60 * np.arange(6))
        gaps = np.hypot(x - _HOLE_CIRCLE * np.cos(around), y - _HOLE_CIRCLE * np.sin(around))
        if gaps.min() > _HOLE + 0.07:
            return x, y


def _curve(part: _Part, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to a polyline (n, 2), and the position 0..1 along it of the nearest point."""
    best = np.full(part.x.shape, np.inf, np.float32)
    where = np.zeros_like(best)
    pieces = np.float32(len(points) - 1)
    for k, (a, b) in enumerate(zip(points[:-1], points[1:], strict=True)):
        ab = b - a
        t = ((part.x - a[0]) * ab[0] + (part.y - a[1]) * ab[1]) / max(float(ab @ ab), 1e-9)
        t = np.clip(t, 0, 1)
        d = np.square(part.x - a[0] - t * ab[0]) + np.square(part.y - a[1] - t * ab[1])
        closer = d < best
        best, where = np.where(closer, d, best), np.where(closer, (k + t) / pieces, where)
    return np.sqrt(best), where


def _wander(
    rng: np.random.Generator, start: tuple[float, float], length: float, bend: float
) -> np.ndarray:
    """Draw a smoothly bending polyline of 14 points."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(np.full(14, rng.normal(0, bend / 14)))
    heading += np.cumsum(rng.normal(0, bend / 30, 14))
    moves = np.stack([np.cos(heading), np.sin(heading)], 1) * (length / 13)
    points = np.cumsum(moves, axis=0)
    return (np.asarray(start) + points - points.mean(axis=0)).astype(np.float32)


def _scratch(part: _Part, rng: np.random.Generator) -> np.ndarray:
    """Draw one to three grooves of a sliding tool: furrows with lips, tapering to both ends."""
    mask = np.zeros_like(part.x)
    start = _face_point(rng)
    line = _wander(rng, start, rng.uniform(0.28, 0.6), 0.5)
    for _ in range(rng.integers(1, 4)):
        points = line + rng.normal(0, 0.03, 2).astype(np.float32)
        d, t = _curve(part, points)
        width = rng.uniform(0.010, 0.016)
        press = np.sin(np.pi * np.clip(t, 0.02, 0.98)) ** 0.6
        groove = np.exp(-((d / width) ** 2))
        lips = np.exp(-(((d - 1.9 * width) / (0.8 * width)) ** 2))
        part.height += press * width * (0.5 * lips - 1.1 * groove)
        part.albedo += press * (0.10 * lips - 0.22 * groove)
        part.gloss += press * (0.7 * lips - 0.6 * groove)
        mask = np.maximum(mask, (d < 2.4 * width) * part.solid)
    return mask


def _dent(part: _Part, rng: np.random.Generator) -> np.ndarray:
    """Press in the mark of something hard that fell: a shallow bowl with a slight ridge around."""
    cx, cy = _face_point(rng, 0.44, 0.76)
    a, b = rng.uniform(0.07, 0.11), rng.uniform(0.07, 0.11)
    turn = rng.uniform(0, np.pi)
    u = math.cos(turn) * (part.x - cx) + math.sin(turn) * (part.y - cy)
    v = -math.sin(turn) * (part.x - cx) + math.cos(turn) * (part.y - cy)
    q = np.hypot(u / a, v / b) * (1 + 0.04 * _noise(rng, part.x.shape[0], 24))
    depth = rng.uniform(0.6, 0.9) * min(a, b)
    part.height -= depth * np.exp(-2.0 * q**2)
    part.height += 0.16 * depth * np.exp(-(((q - 1.15) / 0.22) ** 2))
    part.gloss *= 1 - 0.35 * np.exp(-1.5 * q**2)
    return (q < 1.15) * part.solid


def _missing_hole(part: _Part, rng: np.random.Generator) -> np.ndarray:
    """Skip the drilling of a hole: the turned face goes on where it should be."""
    hx, hy = part.holes[rng.integers(len(part.holes))]
    d = np.hypot(part.x - hx, part.y - hy)
    part.height += 0.045 * _step(_HOLE + 0.022 - d, 0.035)
    open_ = _step(d - _HOLE, 0.008)
    r = np.hypot(part.x, part.y)
    body = _step(_RIM + 0.01 - r, 0.01) * _step(r - _BORE, 0.008)
    for ox, oy in part.holes:
        if (ox, oy) != (hx, hy):
            body *= _step(np.hypot(part.x - ox, part.y - oy) - _HOLE, 0.008)
    part.solid = np.where(open_ < 1, body, part.solid)
    # A centre punch is all that was done there.
    part.height -= 0.006 * np.exp(-((d / 0.012) ** 2))
    return (d < _HOLE + 0.035).astype(np.float32)


def _chip(part: _Part, rng: np.random.Generator) -> np.ndarray:
    """Break a piece out of the rim, with a rough bright fracture."""
    turn = rng.uniform(0, 2 * np.pi)
    cx, cy = (_RIM + 0.02) * math.cos(turn), (_RIM + 0.02) * math.sin(turn)
    rough = _noise(rng, part.x.shape[0], 36)
    size = rng.uniform(0.07, 0.13)
    u = math.cos(turn) * (part.x - cx) + math.sin(turn) * (part.y - cy)
    v = -math.sin(turn) * (part.x - cx) + math.cos(turn) * (part.y - cy)
    d = np.hypot(u, v / rng.uniform(1.0, 1.9)) - size + 0.012 * rough
    inside = np.hypot(part.x, part.y) < _RIM + 0.01
    wall = _step(0.035 - d, 0.05)
    part.height -= 0.09 * wall * (1 + 0.10 * _noise(rng, part.x.shape[0], 70))
    part.albedo += wall * (0.05 + 0.10 * _noise(rng, part.x.shape[0], 80))
    part.gloss *= 1 - 0.8 * wall
    part.solid *= _step(d, 0.010)
    return ((d < 0.045) & inside).astype(np.float32)


def _stain(part: _Part, rng: np.random.Generator) -> np.ndarray:
    """Let coolant or oil dry: a brown film with a darker rim that takes the shine away."""
    cx, cy = _face_point(rng, 0.40, 0.74)
    size = rng.uniform(0.11, 0.19)
    warp = 0.34 * _noise(rng, part.x.shape[0], 14) + 0.16 * _noise(rng, part.x.shape[0], 34)
    q = np.hypot(part.x - cx, part.y - cy) / size + warp
    film = _step(1 - q, 0.25)
    rim = np.exp(-(((q - 0.92) / 0.10) ** 2))
    strength = rng.uniform(0.65, 0.95)
    cover = strength * np.clip(
        film * (0.75 + 0.15 * _noise(rng, part.x.shape[0], 20)) + 0.35 * rim, 0, 1
    )
    part.tint = np.clip(part.tint + 0.85 * cover, 0, 1)
    part.albedo *= 1 - 0.45 * cover
    return (q < 1.05) * part.solid


def _contamination(part: _Part, rng: np.random.Generator) -> np.ndarray:
    """Drop something on the part: curled swarf with its shadow, some chips, or a dark fibre."""
    mask = np.zeros_like(part.x)
    kind = rng.integers(3)
    start = _face_point(rng, 0.30, 0.74)
    if kind == 1:
        for _ in range(rng.integers(5, 12)):
            cx, cy = start[0] + rng.normal(0, 0.075), start[1] + rng.normal(0, 0.075)
            turn, long, short = (
                rng.uniform(0, np.pi),
                rng.uniform(0.016, 0.04),
                rng.uniform(0.008, 0.014),
            )
            u = math.cos(turn) * (part.x - cx) + math.sin(turn) * (part.y - cy)
            v = -math.sin(turn) * (part.x - cx) + math.cos(turn) * (part.y - cy)
            d = np.maximum(np.abs(u) / long, np.abs(v) / short)
            mask = np.maximum(mask, _lay(part, (d - 1) * short, 0.012, rng.uniform(0.35, 0.9), 0.9))
        return mask
    length, bend, width = (0.75, 7.0, 0.018) if kind == 0 else (0.60, 3.0, 0.011)
    d, t = _curve(part, _wander(rng, start, length * rng.uniform(0.8, 1.2), bend))
    width = width * (0.55 + 0.45 * np.sin(np.pi * t))
    if kind == 0:  # bright swarf, banded by the chatter of the tool
        return _lay(part, d - width, 0.02, 0.75 + 0.2 * np.sin(90 * t), 1.6)
    return _lay(part, d - width, 0.008, 0.07, 0.1)


def _lay(
    part: _Part, d: np.ndarray, thick: float, albedo: float | np.ndarray, gloss: float
) -> np.ndarray:
    """Lay a thing on the part: `d` is the signed distance to its outline -> its mask."""
    side = part.x.shape[0]
    on = _step(-d, 0.008)
    # The lamps stand upper left, so the shadow falls to the lower right.
    shift = max(1, round(0.7 * thick * side))
    shadow = np.roll(np.roll(on, shift, 0), shift, 1)
    part.albedo *= 1 - 0.55 * shadow * (1 - on)
    part.gloss *= 1 - 0.7 * shadow * (1 - on)
    part.albedo += on * (albedo - part.albedo)
    part.gloss += on * (gloss - part.gloss)
    part.height += thick * np.sqrt(np.clip(-d / 0.012, 0, 1))
    part.solid = np.maximum(part.solid, on)
    return (on > 0.5).astype(np.float32)


#: The defects by name; each changes the part in place and returns its mask, float32 (H, W) of 0 and
#: 1.
DEFECTS: dict[str, Callable[[_Part, np.random.Generator], np.ndarray]] = {
    "chip": _chip,
    "contamination": _contamination,
    "dent": _dent,
    "missing_hole": _missing_hole,
    "scratch": _scratch,
    "stain": _stain,
}
