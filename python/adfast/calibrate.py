"""What a plan learns from good images, or from labelled ones: a threshold, and how sure it is.

With n good images, a threshold that k of them are above is an order statistic, and the rate of new
good images above it, whatever the scores' distribution, follows Beta(k + 1, n - k) (David and
Nagaraja, "Order Statistics" (2003), section 2.5; ties can only lower it). So the rate's mean,
(k + 1) / (n + 1), and its interval are exact. Likewise, order statistics bound the quantile that
the threshold estimates, by counting how many images may lie below it (same book, section 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adfast.bootstrap import Bootstrap
from adfast.curves import counts_above
from adfast.errors import ArgumentError, DataError

#: Pixels of normal maps that are kept for the quantile of "map.max".
MAX_PIXELS = 2**24
#: The false-positive rate that is taken when none is asked for and the images can show it.
DEFAULT_FPR = 0.01
#: Confidence of all intervals.
LEVEL = 0.95


@dataclass(frozen=True)
class Threshold:
    """A threshold on the score: a score above it is anomalous.

    Attributes:
        value: the threshold.
        expected_fpr: the false-positive rate to expect on new good images.
        fpr: interval of that rate.
        low: lower end of the interval of the threshold itself; None: the images set no end.
        high: its upper end.
    """

    value: float
    expected_fpr: float
    fpr: tuple[float, float]
    low: float | None
    high: float | None


def choose_rate(count: int, asked: float | None) -> float:
    """Settle the false-positive rate that a threshold is set for.

    `count` good images can show a rate of 1 / count and more: at least one of them may then lie
    above the threshold, which is what the rate is seen by.

    Args:
        count: good images, at least 2.
        asked: in (0, 1); None takes `DEFAULT_FPR` or the smallest rate that can be shown,
            whichever is larger.

    Raises:
        ArgumentError: `asked` is not a rate.
        DataError: the images are too few; says how many are needed and what they allow.
    """
    if asked is not None and not 0 < asked < 1:
        raise ArgumentError(
            f"[build] max_fpr is {asked}, expected above 0 and below 1; no number of images shows "
            "a rate of 0"
        )
    if count < 2:
        raise DataError(f"{count} good image; a threshold needs at least 2, better 100 or more")
    if asked is None:
        return max(DEFAULT_FPR, 1 / count)
    # The product may miss a whole number by rounding.
    if asked * count < 1 - 1e-9:
        raise DataError(
            f"{count} good images cannot show a false-positive rate of {asked:g}: that takes "
            f"{math.ceil(1 / asked - 1e-9)} or more, one of which may then lie above the "
            f"threshold; give more good images, or ask for a rate of {_up(1 / count)} or more"
        )
    return asked


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
    count = ordered.size
    if count == 0 or not np.isfinite(ordered).all():
        raise ArgumentError(f"[threshold] got {count} scores, expected 1 or more, all finite")
    # The product may miss a whole number by rounding (0.29 * 100 is 28.999...).
    above = math.floor(max_fpr * count + 1e-9)
    value = float(ordered[count - 1 - above])
    above = int((ordered > value).sum())
    low, high = quantile_ranks(count, 1 - max_fpr)
    return Threshold(
        value,
        expected_fpr=(above + 1) / (count + 1),
        fpr=(beta_quantile(0.5 - LEVEL / 2, above + 1, count - above),
             beta_quantile(0.5 + LEVEL / 2, above + 1, count - above)),
        low=float(ordered[low - 1]) if low else None,
        high=float(ordered[high - 1]) if high <= count else None,
    )  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """How a threshold does on labelled images."""

    good: int
    defective: int
    false_alarms: int
    misses: int
    f1: float


def judge(labels: np.ndarray, scores: np.ndarray, value: float) -> Judged:
    """Count what a threshold gets wrong: labels bool (N,), True for defective; scores (N,)."""
    called = scores > value
    hits = int((called & labels).sum())
    alarms, misses = int((called & ~labels).sum()), int((~called & labels).sum())
    f1 = 2 * hits / max(2 * hits + alarms + misses, 1)
    return Judged(int((~labels).sum()), int(labels.sum()), alarms, misses, f1)


def best_f1(labels: np.ndarray, scores: np.ndarray) -> Threshold:
    """Find the threshold of the largest F1, midway between the two scores that it parts (ours).

    The rate's interval is that of Clopper and Pearson for the false alarms that were counted. It is
    a little optimistic, as the threshold was chosen on the same images. The threshold's own is a
    bootstrap's, images drawn good and defective apart.

    Args:
        labels: bool (N,), True for defective, both kinds.
        scores: float (N,), finite.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    falling = np.unique(scores)[::-1]
    # Below the lowest score everything is anomalous.
    cuts = np.append((falling[:-1] + falling[1:]) / 2, np.nextafter(falling[-1], -np.inf))

    def best(weights: np.ndarray) -> np.ndarray:
        false, true = counts_above(labels, scores, weights)
        called = false[:, 1:] + true[:, 1:]
        f1 = 2 * true[:, 1:] / (called + true[:, -1:])
        return cuts[np.argmax(f1, axis=1)]

    value = float(best(np.ones((1, labels.size)))[0])
    ends = Bootstrap(level=LEVEL).intervals(labels, lambda weights: {"value": best(weights)})
    seen = judge(labels, scores, value)
    return Threshold(
        value,
        expected_fpr=seen.false_alarms / seen.good,
        fpr=clopper_pearson(seen.false_alarms, seen.good),
        low=ends["value"][0],
        high=ends["value"][1],
    )


def _up(rate: float) -> str:
    """Write a rate in four digits, none of which makes it smaller."""
    text = f"{rate:.4g}"
    return text if float(text) >= rate else f"{rate * 1.0005:.4g}"


def binomial_cdf(most: int, count: int, rate: float) -> np.ndarray:
    """Return the probabilities of at most 0, 1, ... `most` successes in `count` tries.

    Args:
        most: from 0 to `count`.
        count: at least 1.
        rate: in [0, 1].
    """
    if rate in (0, 1):
        return np.array([float(rate == 0 or k == count) for k in range(most + 1)])
    k = np.arange(1, most + 1)
    terms = np.concatenate([[0.0], np.cumsum(np.log((count - k + 1) / k))])
    terms += np.arange(most + 1) * math.log(rate)
    terms += np.arange(count, count - most - 1, -1) * math.log1p(-rate)
    return np.minimum(np.cumsum(np.exp(terms)), 1.0)


def beta_quantile(share: float, a: int, b: int) -> float:
    """Return the quantile of Beta(a, b), whole a and b of at least 1, by bisection.

    Beta(a, b) is at most x exactly where a + b - 1 tries at rate x succeed a times or more.
    """
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if 1 - binomial_cdf(a - 1, a + b - 1, middle)[-1] < share:
            low = middle
        else:
            high = middle


def clopper_pearson(seen: int, count: int) -> tuple[float, float]:
    """Return the exact interval of a rate of which `seen` in `count` were counted."""
    tail = 0.5 - LEVEL / 2
    low = beta_quantile(tail, seen, count - seen + 1) if seen else 0.0
    high = beta_quantile(1 - tail, seen + 1, count - seen) if seen < count else 1.0
    return low, high


def quantile_ranks(count: int, share: float) -> tuple[int, int]:
    """Return ranks (from 1) of order statistics that hold the quantile `share` between them.

    With probability `LEVEL` at least, whatever the distribution. A rank of 0, or of count + 1,
    means that `count` images set no such end.
    """
    tail = 0.5 - LEVEL / 2
    # How many of `count` lie below the quantile is binomial.
    at_most = binomial_cdf(count, count, share)
    low = int(np.searchsorted(at_most, tail, "right"))
    high = int(np.searchsorted(at_most, 1 - tail, "left")) + 1
    return low, min(high, count + 1)


def describe(calibration: Mapping[str, Any]) -> list[str]:
    """Say in sentences what a plan's section "calibration" holds; plans of before have less."""
    if "threshold" not in calibration:
        return ["not calibrated: no threshold, no verdicts"]
    get = calibration.get
    text = f"threshold {get('threshold'):.6g}"
    if "rule" in calibration:
        ends = [f"{get(k):.4g}" if k in calibration else None for k in
                ("threshold.low", "threshold.high")]  # fmt: skip
        between = f"{ends[0] or 'no lower end'} to {ends[1] or 'no upper end: too few images'}"
        text += f", {100 * get('level'):g} % interval {between}"
    lines = [text]
    rule = get("rule", "false-positive rate on good images")
    lines.append(f"set by {rule}" + (f", at most {get('max_fpr'):g}" if "max_fpr" in calibration
                                     else ""))  # fmt: skip
    rate = f"new good images above it: expect {100 * get('expected_fpr', 0):.3g} %"
    if "fpr.low" in calibration:
        low, high = (100 * get(key) for key in ("fpr.low", "fpr.high"))
        rate += f", {100 * get('level'):g} % interval {low:.3g} to {high:.3g} %"
    lines.append(rate)
    if "labelled.source" in calibration:
        lines.append(
            f"labelled images: {get('labelled.source')}, {get('labelled.good')} good with "
            f"{get('labelled.false_alarms')} false alarms, {get('labelled.defective')} defective "
            f"with {get('labelled.misses')} misses, F1 {100 * get('labelled.f1'):.1f} %; figures "
            "on these images are not a test"
        )
    images = f"good images: {get('images')}, {get('source', 'of unknown source')}"
    lines.append(images + (f", {get('pixel_format')}" if "pixel_format" in calibration else ""))
    return lines


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


def auroc(labels: Sequence[bool] | np.ndarray, scores: Sequence[float] | np.ndarray) -> float:
    """Return the area under the ROC curve; labels True for defective, both kinds; ties count half.

    It is the chance that a defective image scores above a good one (Mann and Whitney).
    """
    labels = np.asarray(labels, bool)
    bad = int(labels.sum())
    above = _ranks(np.asarray(scores, np.float64))[labels].sum() - bad * (bad + 1) / 2
    return float(above / (bad * (labels.size - bad)))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
