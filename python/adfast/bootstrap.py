"""Bootstrap intervals: how far a figure would move with other images of the same kind.

Images are drawn with replacement, good and defective ones apart (so that every draw has both, in
the same numbers), and the figure is computed again: the interval holds the middle share of what
comes out. Pixels are never drawn by themselves: those of one image are not independent.

Image metrics are exact in every draw. Pixel metrics of a draw come from histograms of each image
between shared thresholds (`PixelHistograms`), whose weighted sum gives the drawn set's curve: the
area between two thresholds is a trapezoid, the error of which `PixelHistograms.error` bounds.

An interval says nothing of what the test set lacks: a perfect figure stays perfect in every draw,
and its interval has no width.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3, percentiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from adfast.curves import PixelHistograms, area, counts_above
from adfast.errors import ArgumentError

Interval = tuple[float, float]
_BLOCK = 100  # draws at a time


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: draws, at least 0; 0 means no intervals. The ends are the less certain the fewer.
        seed: same seed, images and resamples, same intervals.
        level: share of the draws inside the interval, in (0, 1).
    """

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.resamples < 0 or not 0 < self.level < 1:
            raise ArgumentError(
                f"[bootstrap] resamples is {self.resamples}, level {self.level}; expected 0 or "
                "more, and a share between 0 and 1"
            )

    def draws(self, defective: np.ndarray) -> Iterator[np.ndarray]:
        """Draw images -> float32 (up to 100, N) at a time: how often each was drawn.

        Args:
            defective: bool (N,); as many of both kinds are drawn as there are.
        """
        rng = np.random.default_rng(self.seed)
        for begin in range(0, self.resamples, _BLOCK):
            weights = np.zeros((min(_BLOCK, self.resamples - begin), defective.size), np.float32)
            for kind in (~defective, defective):
                count = int(kind.sum())
                if count:
                    weights[:, kind] = rng.multinomial(
                        count, np.full(count, 1 / count), len(weights)
                    )
            yield weights

    def interval(self, values: np.ndarray) -> Interval:
        """Return the ends of the middle `level` of values."""
        low, high = np.quantile(values, [(1 - self.level) / 2, (1 + self.level) / 2])
        return float(low), float(high)

    def intervals(
        self,
        defective: np.ndarray,
        measure: Callable[[np.ndarray], dict[str, np.ndarray]],
    ) -> dict[str, Interval]:
        """Return the interval of every figure that `measure` computes from drawn weights."""
        blocks = [measure(weights) for weights in self.draws(defective)]
        return {
            name: self.interval(np.concatenate([block[name] for block in blocks]))
            for name in (blocks[0] if blocks else ())
        }


def image_figures(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute image AUROC, average precision and F1-max of weighted images, exactly.

    Args:
        labels: bool (N,), True for defective.
        scores: float (N,).
        weights: (R, N), how often an image counts; some of both kinds in every row.

    Returns:
        "image_auroc", "image_ap", "f1_max", each float64 (R,).
    """
    false, true = counts_above(labels, scores, weights)
    good, defective = false[:, -1:], true[:, -1:]
    called = true[:, 1:] + false[:, 1:]
    precision = true[:, 1:] / np.maximum(called, 1)
    return {
        "image_auroc": area(false / good, true / defective),
        "image_ap": (np.diff(true) / defective * precision).sum(axis=1),
        "f1_max": (2 * true[:, 1:] / (called + defective)).max(axis=1),
    }


def image_intervals(labels: np.ndarray, scores: np.ndarray, how: Bootstrap) -> dict[str, Interval]:
    """Return intervals of "image_auroc", "image_ap" and "f1_max"."""
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    return how.intervals(labels, lambda weights: image_figures(labels, scores, weights))


def pixel_intervals(
    histograms: PixelHistograms, fpr_limit: float, how: Bootstrap
) -> dict[str, Interval]:
    """Return intervals of "pixel_auroc" and "aupro"; images, not pixels, are drawn."""

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        x, true, overlap = histograms.curves(weights)
        return {"pixel_auroc": area(x, true), "aupro": area(x, overlap, fpr_limit)}

    return how.intervals(histograms.regions > 0, measure)
