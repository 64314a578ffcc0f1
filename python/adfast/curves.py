"""Curves of true against false positive rate, of images and of pixels, as measured points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def roc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the image ROC curve: one point per different score, equal scores share theirs.

    Args:
        labels: bool (N,), True for defective; both kinds occur.
        scores: float (N,).

    Returns:
        float64 (K + 1, 2): false and true positive rate, from (0, 0) to (1, 1).
    """
    false, true = counts_above(labels, scores, np.ones((1, labels.size)))
    return np.stack([false[0] / false[0, -1], true[0] / true[0, -1]], axis=1)


def counts_above(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count good and defective images down the ranking, once per row of weights.

    Args:
        labels: bool (N,), True for defective.
        scores: float (N,).
        weights: (R, N), how often an image counts.

    Returns:
        float64 (R, K + 1) twice, good and defective ones: column k counts the images that score at
        least the k-th of the K different scores, highest first; column 0 is 0.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    counted = []
    for kind in (~labels, labels):
        sums = np.cumsum(weights[:, order] * kind[order], axis=1, dtype=np.float64)[:, ends]
        counted.append(np.concatenate([np.zeros((weights.shape[0], 1)), sums], axis=1))
    return counted[0], counted[1]


def area(x: np.ndarray, y: np.ndarray, limit: float = 1.0) -> np.ndarray:
    """Return the area under curves up to x = `limit`, divided by it, straight between points.

    Args:
        x: (R, K), rising from 0 to 1.
        y: (R, K).
        limit: in (0, 1]; within the piece it falls into, the curve is cut.

    Returns:
        float64 (R,).
    """
    x0, x1, y0 = x[:, :-1], x[:, 1:], y[:, :-1]
    width = np.clip(limit - x0, 0, x1 - x0)
    slope = (y[:, 1:] - y0) / np.where(x1 > x0, x1 - x0, 1)
    return (width * (y0 + slope * width / 2)).sum(axis=1) / limit


@dataclass
class PixelHistograms:
    """Per image, how many pixels lie between shared thresholds: curves of any choice of images.

    Attributes:
        thresholds: float32 (E,), falling. Bin 0 is above the first, bin k at most threshold k - 1
            and above threshold k, bin E at most the last.
        labels: class of each image, "good" for those without defect.
        normal: float32 (N, E + 1), normal pixels per bin.
        positive: float32 (N, E + 1), defect pixels per bin.
        overlap: float32 (N, E + 1), the share of a region's pixels per bin, summed over regions.
        regions: int64 (N,), regions of each image.
    """

    thresholds: np.ndarray
    labels: list[str]
    normal: np.ndarray
    positive: np.ndarray
    overlap: np.ndarray
    regions: np.ndarray

    @classmethod
    def empty(cls, thresholds: np.ndarray, labels: list[str]) -> PixelHistograms:
        """Make histograms that count nothing yet."""
        arrays = (np.zeros((len(labels), thresholds.size + 1), np.float32) for _ in range(3))
        return cls(thresholds, labels, *arrays, np.zeros(len(labels), np.int64))

    def fill(
        self, k: int, normal: np.ndarray, positive: np.ndarray, sizes: np.ndarray, regions: int
    ) -> None:
        """Count image `k`: its normal and defect pixels, and the region size of each of these."""
        rising = self.thresholds[::-1]
        below = np.searchsorted(np.sort(normal), rising, "right")
        self.normal[k] = np.diff(below, prepend=0, append=normal.size)[::-1]
        bins = rising.size - np.searchsorted(rising, positive, "left")
        self.positive[k] = np.bincount(bins, minlength=rising.size + 1)
        self.overlap[k] = np.bincount(bins, 1.0 / sizes, minlength=rising.size + 1)
        self.regions[k] = regions

    def choose(self, labels: set[str]) -> PixelHistograms:
        """Return the histograms of some classes only."""
        kept = np.array([label in labels for label in self.labels])
        return PixelHistograms(
            self.thresholds,
            [label for label in self.labels if label in labels],
            *(array[kept] for array in (self.normal, self.positive, self.overlap, self.regions)),
        )

    def curves(
        self, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return false positive rate, true positive rate and per-region overlap of the pixels.

        Args:
            weights: float32 (R, N), how often an image counts; once each when None.

        Returns:
            float64 (R, E + 2) three times, at 0, above each threshold, and 1. The points are exact;
            only what lies between two of them is not known.
        """
        if weights is None:
            weights = np.ones((1, len(self.labels)), np.float32)
        rates = []
        for counts in (self.normal, self.positive, self.overlap):
            sums = np.cumsum(weights @ counts, axis=1, dtype=np.float64)
            sums = np.concatenate([np.zeros((sums.shape[0], 1)), sums], axis=1)
            rates.append(sums / sums[:, -1:])
        return rates[0], rates[1], rates[2]

    def error(self, fpr_limit: float) -> tuple[float, float]:
        """Bound how far binned pixel AUROC and AUPRO can be from the exact ones.

        Both curves rise, so between two points they stay in a rectangle, of which a straight line
        takes half; in the rectangle that the limit cuts, all of it may be off. Where a bin holds
        one value alone, the straight line is the curve.
        """
        x, true, overlap = self.curves()
        next_below = np.nextafter(self.thresholds[:-1], np.float32(-np.inf), dtype=np.float32)
        unknown = np.concatenate([[1], self.thresholds[1:] < next_below, [1]])
        whole = 0.5 * float((unknown * np.diff(x) * np.diff(true)).sum())
        part = unknown * np.diff(np.minimum(x, fpr_limit)) * np.diff(overlap)
        part = np.where((x[:, :-1] < fpr_limit) & (x[:, 1:] > fpr_limit), part, part / 2)
        return whole, float(part.sum()) / fpr_limit
