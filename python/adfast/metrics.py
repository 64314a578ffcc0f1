"""Image and pixel metrics of anomaly detection, exact and in bounded memory.

Labels are True for defective; a higher score means more anomalous. An AUROC below 0.5 is reported
as it is: turning it over would hide a detector that prefers defects.

Image metrics are scikit-learn's. Pixel metrics are computed here, because sorting every pixel of a
test set takes gigabytes, from one observation: under a curve of true against false positive rate,
with equal scores joined by a straight line, a positive of score s contributes only through two
numbers, the shares of negatives above s and at or above s. So negatives need to be counted, never
sorted together, and pixel AUROC and AUPRO of a thousand large images need the memory of their
defect pixels alone.

Sources: Fawcett, "An introduction to ROC analysis" (2006); Bergmann et al., "The MVTec anomaly
detection dataset" (IJCV 2021), section 5.2 for AUPRO.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adfast.errors import DataError

#: Normal pixels kept in memory before the rest goes to a temporary file (bytes, 4 a pixel).
SPOOL_BYTES = 2**29
_CHUNK = 2**22


def image_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve: how likely a defective image outscores a good one.

    Args:
        labels: bool (N,), True for defective.
        scores: float (N,).

    Raises:
        DataError: there are only good or only defective images, or a score is not finite.
    """
    labels, scores = _checked(labels, scores)
    return float(_sklearn().roc_auc_score(labels, scores))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean over defective images of the precision at their score, not interpolated."""
    labels, scores = _checked(labels, scores)
    return float(_sklearn().average_precision_score(labels, scores))


def f1_max(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the largest F1, and its threshold (images scoring at or above it are defective).

    The threshold is chosen on the very labels it is judged by: an upper bound, not an operating
    point.
    """
    labels, scores = _checked(labels, scores)
    precision, recall, thresholds = _sklearn().precision_recall_curve(labels, scores)
    # The last point, recall 0, has no threshold.
    f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-30)
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


@dataclass
class PixelMetrics:
    """Pixel metrics and what they were measured on."""

    auroc: float
    aupro: float
    fpr_limit: float
    images: int
    normal_pixels: int
    defect_pixels: int
    regions: int


class PixelScores:
    """Collects maps and masks image by image, then computes pixel AUROC and AUPRO.

    Scores of defect pixels stay in memory (8 bytes each with their weights), those of normal pixels
    in a spool that moves to a temporary file beyond `SPOOL_BYTES`.
    """

    def __init__(self) -> None:
        self._positive: list[np.ndarray] = []
        self._region_sizes: list[
            np.ndarray
        ] = []  # for every positive pixel, the size of its region
        self._spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)
        self._normal = 0
        self._images = 0
        self._regions = 0

    def add(self, map_: np.ndarray, mask: np.ndarray | None) -> None:
        """Add one image.

        Args:
            map_: float (H, W), the anomaly map where it is defined.
            mask: bool (H, W), True on the defect; None for a good image.

        Raises:
            DataError: shapes differ or the map holds values that are not finite.
        """
        if mask is not None and map_.shape != mask.shape:
            raise DataError(
                f"the map is {map_.shape}; the mask is {mask.shape}; expected equal shapes"
            )
        values = np.asarray(map_, np.float32)
        if not np.isfinite(values).all():
            raise DataError("the anomaly map holds values that are not finite")
        self._images += 1
        if mask is None or not mask.any():
            normal = values.ravel()
        else:
            regions, count = _label(mask)
            sizes = np.bincount(regions.ravel())
            self._positive.append(values[mask])
            self._region_sizes.append(sizes[regions[mask]].astype(np.float32))
            self._regions += count
            normal = values[~mask]
        self._normal += normal.size
        self._spool.write(np.ascontiguousarray(normal).data.cast("B") if normal.size else b"")

    def compute(self, fpr_limit: float = 0.3) -> PixelMetrics:
        """Compute the metrics.

        Args:
            fpr_limit: AUPRO integrates up to this share of normal pixels and divides by it.

        Raises:
            DataError: no normal or no defect pixel was added.
        """
        if not self._positive:
            raise DataError("pixel metrics need at least one image with a mask that is not empty")
        if not self._normal:
            raise DataError("pixel metrics need normal pixels; every pixel is marked as defect")
        positive = np.concatenate(self._positive)
        weights = 1.0 / (np.concatenate(self._region_sizes).astype(np.float64) * self._regions)
        above, least = _negatives_above(positive, self._chunks())
        return PixelMetrics(
            auroc=_area(above, least, self._normal, 1.0),
            aupro=_area(above, least, self._normal, fpr_limit, weights),
            fpr_limit=fpr_limit,
            images=self._images,
            normal_pixels=self._normal,
            defect_pixels=positive.size,
            regions=self._regions,
        )

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        self._spool.close()

    def __enter__(self) -> PixelScores:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chunks(self) -> Iterator[np.ndarray]:
        self._spool.seek(0)
        while data := self._spool.read(4 * _CHUNK):
            yield np.frombuffer(data, np.float32)


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise DataError(
            f"labels are {labels.shape}, scores {scores.shape}; expected one of each per image"
        )
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} scores are not finite")
    if labels.all() or not labels.any():
        only = "defective" if labels.size and labels.all() else "good"
        raise DataError(
            f"all {labels.size} images are {only}; metrics need both good and defective ones"
        )
    return labels, scores


def _negatives_above(
    positive: np.ndarray, chunks: Iterator[np.ndarray] | list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Count for each positive the negatives above it, and at or above it -> int64 (P,) twice."""
    values, back = np.unique(positive, return_inverse=True)
    above = np.zeros(values.size + 1, np.int64)
    least = np.zeros(values.size + 1, np.int64)
    for chunk in chunks:
        # Sorted queries walk the table in order, which is several times faster than the search
        # itself.
        chunk = np.sort(chunk)
        above += np.bincount(np.searchsorted(values, chunk, "left"), minlength=values.size + 1)
        least += np.bincount(np.searchsorted(values, chunk, "right"), minlength=values.size + 1)
    # A negative with k values below it lies above values 0..k-1.
    above = np.cumsum(above[::-1])[::-1][1:]
    least = np.cumsum(least[::-1])[::-1][1:]
    return above[back], least[back]


def _area(
    above: np.ndarray,
    least: np.ndarray,
    negatives: int,
    limit: float,
    weights: np.ndarray | None = None,
) -> float:
    """Area under the curve up to false positive rate `limit`, divided by `limit`.

    Each positive is a ramp over the false positive rate, from 0 at above / negatives to 1 at least
    / negatives.
    """
    start, end = above / negatives, least / negatives
    full = limit - (start + end) / 2
    width = np.where(end > start, end - start, 1.0)
    cut = np.square(np.clip(limit - start, 0, None)) / (2 * width)
    area = np.where(end <= limit, full, cut)
    mean = area.mean() if weights is None else (weights * area).sum()
    return float(mean / limit)


def _sklearn():  # noqa: ANN202
    try:
        import sklearn.metrics
    except ImportError as error:
        raise ImportError(
            'metrics need scikit-learn: pip install "adfast[eval]"', name="sklearn"
        ) from error
    return sklearn.metrics


def require_regions() -> None:
    """Raise ImportError, naming the extra, when SciPy is missing: it finds the regions of AUPRO."""
    try:
        import scipy.ndimage  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'the regions of masks need SciPy: pip install "adfast[eval]"', name="scipy"
        ) from error


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Find the 8-connected regions of a mask and number them, as MVTec AD's evaluation does."""
    require_regions()
    from scipy import ndimage

    return ndimage.label(mask, structure=np.ones((3, 3), int))
