"""What an engine says of a frame: score, verdict, map, and where the map is high."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from adfast._native import _core
from adfast.errors import ArgumentError


class Box(NamedTuple):
    """A rectangle of a frame, in pixels from its upper left corner."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a map or an image with."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


@dataclass(frozen=True)
class Region:
    """A connected part of a map that is above a threshold.

    Attributes:
        box: the smallest rectangle around it.
        area: its pixels.
        peak: the map's largest value in it.
        mean: the mean value.
        peak_at: (x, y) of `peak`.
    """

    box: Box
    area: int
    peak: float
    mean: float
    peak_at: tuple[int, int]


@dataclass(frozen=True)
class Result:
    """What the engine says of one frame.

    Attributes:
        score: the raw anomaly score, any non-negative float; higher is more anomalous. Scores of
            different plans are not comparable.
        map: float32 (H, W) of the frame's own size: the anomaly map, resized bilinearly. Outside
            `inspected` it is 0.
        network_map: float32 (h, w): the same map at the network's resolution, which `score` is
            taken from; None for a frame that was inspected in tiles.
        inspected: the part of the frame that the network sees.
        threshold: the plan's threshold on `score`, or None for a plan that was not calibrated.
        timings: milliseconds for "frame" (resize and normalise), "network", "map" (resize to the
            frame) and "total".
    """

    score: float
    map: np.ndarray
    network_map: np.ndarray | None
    inspected: Box
    threshold: float | None
    timings: dict[str, float]

    @property
    def is_anomalous(self) -> bool | None:
        """Whether `score` is above `threshold`; None for a plan that was not calibrated."""
        return None if self.threshold is None else self.score > self.threshold

    @property
    def mask(self) -> np.ndarray | None:
        """Bool (H, W), where `map` is above `threshold`; None for an uncalibrated plan."""
        return None if self.threshold is None else self.map > self.threshold

    def regions(
        self,
        threshold: float | np.ndarray | None = None,
        *,
        min_peak: float = -np.inf,
        min_area: int = 1,
    ) -> list[Region]:
        """Find the connected parts of `map` above a threshold, the highest peak first.

        Args:
            threshold: a pixel belongs to a region where the map is above; a float, or an array
                (H, W) with each pixel's own, for parts of the frame that are judged by their own
                measure. None: the plan's, one of the score: where that is a mean of the map
                (ADTR, HaloAE), single pixels of a good frame may be above it.
            min_peak: regions that are nowhere above are left out.
            min_area: regions of fewer pixels are left out. Pixels that touch at a corner are
                connected.

        Raises:
            ArgumentError: no threshold is given and the plan has none.
        """
        if threshold is None:
            threshold = self.threshold
        if threshold is None:
            raise ArgumentError("[regions] the plan is not calibrated: give a threshold")
        return [
            Region(Box(*box), *rest)
            for box, *rest in _core.regions(self.map, threshold, min_peak, min_area)
        ]
