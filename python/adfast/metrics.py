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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adfast.curves import PixelHistograms
from adfast.errors import DataError

#: Normal pixels kept in memory before the rest goes to a temporary file (bytes, 4 a pixel).
SPOOL_BYTES = 2**29
_CHUNK = 2**22
_SAMPLE = 2**21


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


@dataclass
class _Image:
    """One image in the collection: where its normal pixels are, and what its defects scored."""

    label: str
    offset: int
    normal: int
    positive: np.ndarray
    sizes: np.ndarray  # for every positive pixel, the size of its region
    regions: int


class PixelScores:
    """Collects maps and masks image by image, then computes pixel AUROC and AUPRO.

    Scores of defect pixels stay in memory (8 bytes each with their weights), those of normal pixels
    in a spool that moves to a temporary file beyond `SPOOL_BYTES`.
    """

    def __init__(self) -> None:
        self._added: list[_Image] = []
        self._spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)

    def add(self, map_: np.ndarray, mask: np.ndarray | None, label: str = "defective") -> None:
        """Add one image.

        Args:
            map_: float (H, W), the anomaly map where it is defined.
            mask: bool (H, W), True on the defect; None for a good image.
            label: class of the defect; an image without a mask, or with an empty one, is "good".

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
        if mask is None or not mask.any():
            label, normal, count = "good", values.ravel(), 0
            positive = sizes = np.zeros(0, np.float32)
        else:
            numbers, count = _label(mask)
            positive, normal = values[mask], values[~mask]
            sizes = np.bincount(numbers.ravel())[numbers[mask]].astype(np.float32)
        offset = self._spool.seek(0, 2) // 4
        self._added.append(_Image(label, offset, normal.size, positive, sizes, count))
        self._spool.write(np.ascontiguousarray(normal).data.cast("B") if normal.size else b"")

    def compute(self, fpr_limit: float = 0.3) -> PixelMetrics:
        """Compute the metrics over all images.

        Args:
            fpr_limit: AUPRO integrates up to this share of normal pixels and divides by it.

        Raises:
            DataError: no normal or no defect pixel was added.
        """
        return self.compute_classes(fpr_limit)[0]

    def compute_classes(
        self, fpr_limit: float = 0.3
    ) -> tuple[PixelMetrics, dict[str, PixelMetrics]]:
        """Compute the metrics over all images, and of each class against the good images.

        The normal pixels of a class are those of all good images and of its own ones.

        Raises:
            DataError: no normal or no defect pixel was added.
        """
        defective = [image for image in self._added if image.regions]
        if not defective:
            raise DataError("pixel metrics need at least one image with a mask that is not empty")
        if not sum(image.normal for image in self._added):
            raise DataError("pixel metrics need normal pixels; every pixel is marked as defect")
        values, places = np.unique(
            np.concatenate([image.positive for image in defective]), return_inverse=True
        )
        places = np.split(places, np.cumsum([image.positive.size for image in defective])[:-1])
        good = self._counted("good", values)
        everything = [good]
        classes = {}
        for label in sorted({image.label for image in defective}):
            own = self._counted(label, values)
            everything.append(own)
            chosen = [k for k, image in enumerate(defective) if image.label == label]
            if good[0] + own[0]:
                classes[label] = self._measure(
                    [defective[k] for k in chosen],
                    np.concatenate([places[k] for k in chosen]),
                    [good, own],
                    fpr_limit,
                )
            # Only the sum over the classes is kept: two counts per value of a defect pixel.
            everything = [tuple(map(sum, zip(*everything, strict=True)))]
        return self._measure(defective, np.concatenate(places), everything, fpr_limit), classes

    def histograms(self, thresholds: Sequence[float] = (), bins: int = 1024) -> PixelHistograms:
        """Count pixels and region shares of every image between shared thresholds.

        The thresholds are quantiles of the pixels, three quarters of them where the false positive
        rate is at most 0.3, so that resampled areas stay close to exact ones (see
        `PixelHistograms.error`). Memory: 12 bytes per image and bin.

        Args:
            thresholds: values that must be among the thresholds.
            bins: how many bins, about; equal values get one of their own.

        Raises:
            DataError: as `compute`.
        """
        total = sum(image.normal for image in self._added)
        defective = [image.positive for image in self._added if image.regions]
        if not defective or not total:
            raise DataError("pixel histograms need both normal and defect pixels")
        # A sample is enough to place the thresholds; what lies between them is counted exactly.
        step = -(-total // _SAMPLE)
        normal = np.concatenate([c[:: min(step, c.size)] for c in self._chunks(self._added)])
        positive = np.concatenate(defective)
        third = bins // 4
        shares = 1 - np.concatenate([np.linspace(0, 0.3, 2 * third), np.linspace(0.3, 1, third)])
        edges = np.concatenate(
            [
                np.quantile(normal, shares, method="nearest"),
                np.quantile(positive, np.linspace(0, 1, third), method="nearest"),
            ]
        ).astype(np.float32)
        edges, times = np.unique(edges, return_counts=True)
        # Equal values get a bin of their own, which ends just below them.
        ties = np.nextafter(edges[times > 1], np.float32(-np.inf), dtype=np.float32)
        edges = np.unique(np.concatenate([edges, ties, np.asarray(thresholds, np.float32)]))[::-1]
        made = PixelHistograms.empty(edges, [image.label for image in self._added])
        for k, image in enumerate(self._added):
            own = np.concatenate([np.zeros(0, np.float32), *self._chunks([image])])
            made.fill(k, own, image.positive, image.sizes, image.regions)
        return made

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        self._spool.close()

    def __enter__(self) -> PixelScores:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _counted(self, label: str, values: np.ndarray) -> tuple[int, int, np.ndarray, np.ndarray]:
        """Count a class: its images, its normal pixels, and how many lie above `values`."""
        images = [image for image in self._added if image.label == label]
        above, least = _negatives_above(values, self._chunks(images))
        return sum(image.normal for image in images), len(images), above, least

    def _measure(
        self,
        defective: list[_Image],
        places: np.ndarray,
        counted: list[tuple[int, int, np.ndarray, np.ndarray]],
        fpr_limit: float,
    ) -> PixelMetrics:
        normal, images, above, least = (
            sum(parts[1:], parts[0]) for parts in zip(*counted, strict=True)
        )
        regions = sum(image.regions for image in defective)
        sizes = np.concatenate([image.sizes for image in defective]).astype(np.float64)
        ramps = above[places], least[places], normal
        return PixelMetrics(
            auroc=_area(*ramps, 1.0),
            aupro=_area(*ramps, fpr_limit, 1.0 / (sizes * regions)),
            fpr_limit=fpr_limit,
            images=images,
            normal_pixels=normal,
            defect_pixels=sizes.size,
            regions=regions,
        )

    def _chunks(self, images: list[_Image]) -> Iterator[np.ndarray]:
        """Yield the normal pixels of images, those of small neighbours together."""
        begin, size = 0, 0
        for image in [*images, None]:
            joined = image is not None and size and image.offset == begin + size
            if joined and size + image.normal <= _CHUNK:
                size += image.normal
                continue
            self._spool.seek(4 * begin)
            for at in range(0, size, _CHUNK):
                count = min(_CHUNK, size - at)
                yield np.frombuffer(self._spool.read(4 * count), np.float32)
            if image is not None:
                begin, size = image.offset, image.normal


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
    values: np.ndarray, chunks: Iterator[np.ndarray] | list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Count for each of the sorted values the negatives above it, and at or above it -> int64."""
    above = np.zeros(values.size + 1, np.int64)
    least = np.zeros(values.size + 1, np.int64)
    for chunk in chunks:
        # Sorted queries walk the table in order, which is several times faster than the search
        # itself.
        chunk = np.sort(chunk)
        above += np.bincount(np.searchsorted(values, chunk, "left"), minlength=values.size + 1)
        least += np.bincount(np.searchsorted(values, chunk, "right"), minlength=values.size + 1)
    # A negative with k values below it lies above values 0..k-1.
    return np.cumsum(above[::-1])[::-1][1:], np.cumsum(least[::-1])[::-1][1:]


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
