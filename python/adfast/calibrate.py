"""What a plan learns from good images: a threshold with a stated error rate, and statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adfast.errors import ArgumentError

#: Pixels of normal maps that are kept for the quantile of "map.max".
MAX_PIXELS = 2**24


@dataclass(frozen=True)
class Threshold:
    """A threshold on the score.

    Attributes:
        value: one of the scores it was made from; a score above it is anomalous.
        expected_fpr: the false-positive rate to expect on new good images, (k + 1) / (n + 1) when
            k of n were above `value`: the rank of a new score among n others is uniform.
        enough: whether n is large enough for the rate that was asked for to be seen at all.
    """

    value: float
    expected_fpr: float
    enough: bool


def threshold(scores: Sequence[float] | np.ndarray, max_fpr: float) -> Threshold:
    """Find the smallest score that at most a fraction `max_fpr` of `scores` is above.

    Exact: it is one of the scores, nothing is interpolated.

    Args:
        scores: of held-out good images, at least one, finite.
        max_fpr: in [0, 1).
    """
    if not 0 <= max_fpr < 1:
        raise ArgumentError(f"[threshold] max_fpr is {max_fpr}, expected at least 0 and below 1")
    ordered = np.sort(np.asarray(scores, np.float64))
    if ordered.size == 0 or not np.isfinite(ordered).all():
        raise ArgumentError(
            f"[threshold] got {ordered.size} scores, expected 1 or more, all finite"
        )
    # The product may miss a whole number by rounding (0.29 * 100 is 28.999...).
    above = math.floor(max_fpr * ordered.size + 1e-9)
    value = float(ordered[ordered.size - 1 - above])
    above = int((ordered > value).sum())
    return Threshold(
        value, (above + 1) / (ordered.size + 1), enough=max_fpr * ordered.size >= 1 - 1e-9
    )


class MapStatistics:
    """Mean and a high quantile of the pixels of many maps, seen one at a time."""

    def __init__(self, images: int):
        self._images = images
        self._sum = 0.0
        self._count = 0
        self._kept: list[np.ndarray] = []

    def add(self, score_map: np.ndarray) -> None:
        """Take in a map, float32 of any shape."""
        self._sum += float(score_map.sum(dtype=np.float64))
        self._count += score_map.size
        step = -(-score_map.size * self._images // MAX_PIXELS)
        self._kept.append(score_map.reshape(-1)[:: max(step, 1)].copy())

    def mean(self) -> float:
        """Return the mean over all pixels."""
        return self._sum / max(self._count, 1)

    def quantile(self, q: float) -> float:
        """Return a quantile of the pixels, or of every n-th when there are too many to keep."""
        return float(np.quantile(np.concatenate(self._kept), q))


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Return the rank correlation; equal values share their mean rank; 1 when both are constant."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (a, b)]
    x, y = (rank - rank.mean() for rank in ranks)
    norm = math.sqrt(float(x @ x) * float(y @ y))
    if norm == 0:
        return 1.0 if not x.any() and not y.any() else 0.0
    return float(x @ y) / norm


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
