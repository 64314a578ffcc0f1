"""Evaluate an engine on a labelled folder in the MVTec AD layout.

    DATA/test/good/*.png        images without defect
    DATA/test/<defect>/*.png    images with one kind of defect each
    DATA/ground_truth/<defect>/<stem>_mask.png (or <stem>.png)
                                not zero on the defect; may be left out, all of them

Each class of defects is also measured by itself, against all good images. Pixel metrics cover the
rectangle of the frame that the engine inspects (a centre crop leaves a margin out), at the frame's
resolution. Defective images whose mask is empty there stay in the image metrics, leave the pixel
metrics, and are counted. All figures are exact; their intervals come from `adfast.bootstrap`. The
plan's threshold comes from normal images of the training side; it is judged here, never set.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adfast import metrics
from adfast.benchmark import summarize
from adfast.bootstrap import Bootstrap, image_intervals, pixel_intervals
from adfast.calibrate import clopper_pearson
from adfast.curves import PixelHistograms, roc
from adfast.data.folder import test_set
from adfast.errors import DataError, FrameError
from adfast.images import image_size, read_image, refuse
from adfast.progress import Track, silent

FPR_LIMIT = 0.3


@dataclass
class Row:
    """What the engine said about one image."""

    image: str
    label: str
    defective: bool
    score: float
    anomalous: bool | None
    latency_ms: float
    mask: str | None = None


def find_samples(
    root: Path, only: Path | None = None, pixel_format: str = ""
) -> list[tuple[Path, str, Path | None]]:
    """List the labelled test images under `root` as (path, label, mask), and look them through.

    Only headers are read: it takes milliseconds an image, before hours of prediction.

    Args:
        root: data set folder.
        only: text file of image paths relative to `root`, one a line, to take instead of all of
            `root`/test.
        pixel_format: of images of 16 bits a sample, see `adfast.images.read_image`; masks have 8.

    Raises:
        DataError: the layout is not there, only good or only defective images remain, or images
            and masks have problems: unreadable, a defective image without a mask where there is a
            folder of masks, a mask of another size than its image. All are found, ten are listed.
    """
    root = Path(root)
    samples = test_set(root, only)
    defective = sum(label != "good" for _, label, _ in samples)
    if defective == 0 or defective == len(samples):
        have = "only defective" if defective else "only good"
        raise DataError(
            f"{only or root / 'test'}: {len(samples)} images, {have} ones; metrics need images in "
            "test/good and in at least one test/<defect>"
        )
    problems, bare = [], 0
    for path, label, mask in samples:
        try:
            size = image_size(path, pixel_format)
            if mask is not None:
                _check_mask(mask, image_size(mask), size)
            elif label != "good" and (root / "ground_truth").is_dir():
                bare += 1
                expected = root / "ground_truth" / label / f"{path.stem}_mask.png"
                problems.append(f"{path} has no mask; expected {expected}")
        except (DataError, FrameError) as error:
            problems.append(str(error))
    advice = " (for image metrics alone, take the folder ground_truth away)" if bare else ""
    refuse(problems, f"{only or root}{advice}")
    return samples


def evaluate(
    engine: Any,
    root: Path,
    *,
    only: Path | None = None,
    how: Bootstrap | None = None,
    track: Track = silent,
    pixel_format: str = "",
) -> dict[str, Any]:
    """Predict every labelled image and measure.

    Args:
        engine: an `adfast.Engine`, or anything with its `predict` and `info`.
        root: data set folder, see the top of this file.
        only: see `find_samples`.
        how: how intervals are made; `Bootstrap()` by default.
        track: wraps the images of a long step, to show progress: track(items, what).
        pixel_format: see `find_samples`.

    Returns:
        A dict in JSON's terms: "pixel_format", "images" (counts), "metrics", "intervals" (of the
        metrics), "classes", "pixels", "verdicts", "curves", "latency_ms", "bootstrap", "seconds",
        "rows".

    Raises:
        DataError: see `find_samples`.
        FrameError: an image's pixels are damaged: figures on what is left would be those of another
            set.
    """
    root, how = Path(root), how or Bootstrap()
    samples = find_samples(root, only, pixel_format)
    with_masks = any(mask is not None for _, _, mask in samples)
    if with_masks:
        metrics.require_regions()  # before the long part, not after it
    rows, empty, threshold = [], [], None
    clock = _Clock()
    with metrics.PixelScores() as pixels:
        for path, label, mask_path in track(samples, "images"):
            frame = read_image(path, pixel_format)
            result = engine.predict(frame, pixel_format=pixel_format)
            threshold = result.threshold
            row = Row(
                image=path.relative_to(root).as_posix(),
                label=label,
                defective=label != "good",
                score=float(result.score),
                anomalous=None if result.is_anomalous is None else bool(result.is_anomalous),
                latency_ms=float(result.timings["total"]),
                mask=mask_path and mask_path.relative_to(root).as_posix(),
            )
            rows.append(row)
            if with_masks:
                inside = result.inspected.slices
                mask = None
                if row.defective:
                    mask = read_mask(mask_path, frame.shape[:2])[inside]
                    if not mask.any():
                        empty.append(row.image)
                        continue
                pixels.add(result.map[inside], mask, label)
        clock.lap("images")
        summary = _summary(rows, threshold)
        histograms = None
        if with_masks and len(empty) < _defects(rows):
            measured, classes = pixels.compute_classes(FPR_LIMIT)
            _add_pixels(summary, measured, classes)
            clock.lap("metrics")
            histograms = pixels.histograms([] if threshold is None else [threshold])
            summary["curves"] |= _pixel_curves(histograms, threshold)
        summary["pixels"]["empty_masks"] = empty
    _add_intervals(summary, rows, histograms, how, track)
    clock.lap("intervals")
    return {
        "pixel_format": pixel_format,
        **summary,
        "seconds": clock.laps,
        "rows": [asdict(row) for row in rows],
    }


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now


def read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Read a ground-truth mask -> bool (H, W), True where the file is not zero.

    Raises:
        DataError: its size is not `shape`, the image's.
    """
    mask = read_image(path)
    _check_mask(path, mask.shape[:2], shape)
    return mask != 0 if mask.ndim == 2 else (mask != 0).any(axis=2)


def _check_mask(path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    if tuple(size) != tuple(expected):
        raise DataError(
            f"{path}: the mask is {size[1]} x {size[0]}; its image is {expected[1]} x {expected[0]}"
        )


def _defects(rows: Iterable[Row]) -> int:
    return sum(row.defective for row in rows)


def _summary(rows: list[Row], threshold: float | None) -> dict[str, Any]:
    """Measure everything but the pixels."""
    labels = np.array([row.defective for row in rows])
    scores = np.array([row.score for row in rows])
    good = scores[~labels]
    verdicts = operating = None
    if threshold is not None:
        false_alarms = sum(bool(row.anomalous) for row in rows if not row.defective)
        misses = sum(not row.anomalous for row in rows if row.defective)
        verdicts = {
            "threshold": float(threshold),
            "false_alarms": false_alarms,
            "false_alarm_rate": false_alarms / good.size,
            "false_alarm_interval": list(clopper_pearson(false_alarms, good.size)),
            "misses": misses,
            "miss_rate": misses / _defects(rows),
            "miss_interval": list(clopper_pearson(misses, _defects(rows))),
        }
        operating = [verdicts["false_alarm_rate"], 1 - verdicts["miss_rate"]]
    latency = summarize(np.array([row.latency_ms for row in rows]))
    names = sorted({row.label for row in rows}, key=lambda label: (label != "good", label))
    return {
        "images": {"good": int(good.size), "defective": _defects(rows)},
        "metrics": {**_image_metrics(labels, scores), "pixel_auroc": None, "aupro": None},
        "intervals": {},
        "pixels": {"area": "the inspected rectangle of every frame, at the frame's resolution"},
        "verdicts": verdicts,
        "classes": [_class(label, rows, good, threshold) for label in names],
        "curves": {"roc": {"points": _points(roc(labels, scores)), "operating": operating}},
        "latency_ms": {
            "median": latency["p50"] or float(np.median([row.latency_ms for row in rows])),
            **{key: latency[key] for key in ("p90", "p99", "max")},
        },
    }


def _image_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    best, best_threshold = metrics.f1_max(labels, scores)
    return {
        "image_auroc": metrics.image_auroc(labels, scores),
        "image_ap": metrics.average_precision(labels, scores),
        "f1_max": best,
        "f1_max_threshold": best_threshold,
    }


def _class(
    label: str, rows: list[Row], good: np.ndarray, threshold: float | None
) -> dict[str, Any]:
    own = [row for row in rows if row.label == label]
    values = np.array([row.score for row in own])
    measured = dict.fromkeys(("image_auroc", "image_ap", "f1_max"))
    if label != "good":
        against = np.concatenate([np.zeros(good.size, bool), np.ones(values.size, bool)])
        found = _image_metrics(against, np.concatenate([good, values]))
        measured = {name: found[name] for name in measured}
    return {
        "label": label,
        "images": len(own),
        "score_median": float(np.median(values)),
        "called_anomalous": None if threshold is None else sum(bool(r.anomalous) for r in own),
        **measured,
        "pixel_auroc": None,
        "aupro": None,
        "regions": None,
        "intervals": {},
    }


def _add_pixels(
    summary: dict[str, Any],
    measured: metrics.PixelMetrics,
    classes: dict[str, metrics.PixelMetrics],
) -> None:
    summary["metrics"] |= {"pixel_auroc": measured.auroc, "aupro": measured.aupro}
    counts = {k: v for k, v in asdict(measured).items() if k not in ("auroc", "aupro")}
    summary["pixels"] |= counts
    for entry in summary["classes"]:
        own = classes.get(entry["label"])
        if own is not None:
            entry |= {"pixel_auroc": own.auroc, "aupro": own.aupro, "regions": own.regions}


def _pixel_curves(histograms: PixelHistograms, threshold: float | None) -> dict[str, Any]:
    x, true, overlap = (rates[0] for rates in histograms.curves())
    at = None
    if threshold is not None:
        at = int(np.flatnonzero(histograms.thresholds == np.float32(threshold))[0]) + 1
    return {
        name: {
            "points": _points(np.stack([x, y], axis=1)),
            "operating": None if at is None else [float(x[at]), float(y[at])],
        }
        for name, y in (("pixel_roc", true), ("pro", overlap))
    }


def _points(curve: np.ndarray) -> list[list[float]]:
    """Round a curve's points and drop repeated ones."""
    rounded = np.round(curve, 6)
    keep = np.append(True, (np.diff(rounded, axis=0) != 0).any(axis=1))
    return rounded[keep].tolist()


def _add_intervals(
    summary: dict[str, Any],
    rows: list[Row],
    histograms: PixelHistograms | None,
    how: Bootstrap,
    track: Track,
) -> None:
    """Add "intervals" to the whole and to every class, and say how they were made."""
    summary["bootstrap"] = {**asdict(how), "pixel_error": None}
    if histograms is not None:
        errors = histograms.error(FPR_LIMIT)
        named = dict(zip(("pixel_auroc", "aupro"), errors, strict=True))
        summary["bootstrap"]["pixel_error"] = named
    if not how.resamples:
        return
    of_class = [entry for entry in summary["classes"] if entry["label"] != "good"]
    everything = {row.label for row in rows}
    sets = [(summary, everything), *((entry, {"good", entry["label"]}) for entry in of_class)]
    for target, labels in track(sets, "intervals"):
        chosen = [row for row in rows if row.label in labels]
        defective = np.array([row.defective for row in chosen])
        scores = np.array([row.score for row in chosen])
        found = image_intervals(defective, scores, how)
        own = histograms and histograms.choose(labels)
        if own and own.regions.any():
            found |= pixel_intervals(own, FPR_LIMIT, how)
        target["intervals"] = {name: list(ends) for name, ends in found.items()}
