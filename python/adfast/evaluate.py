"""Evaluate an engine on a labelled folder in the MVTec AD layout.

    DATA/test/good/*.png               images without defect DATA/test/<defect>/*.png
    images with one kind of defect each DATA/ground_truth/<defect>/<stem>_mask.png (or <stem>.png):
    not zero on the defect; may be left out

Pixel metrics cover the rectangle of the frame that the engine inspects (a centre crop leaves a
margin out), at the frame's resolution. Defective images whose mask is empty there stay in the image
metrics, leave the pixel metrics, and are counted. The plan's threshold comes from normal images of
the training side; it is judged here, never set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adfast import metrics
from adfast.data.folder import test_set
from adfast.errors import DataError
from adfast.images import read_image


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


def find_samples(root: Path, only: Path | None = None) -> list[tuple[Path, str, Path | None]]:
    """List the labelled test images under `root` as (path, label, mask).

    Args:
        root: data set folder.
        only: text file of image paths relative to `root`, one a line, to take instead of all of
            `root`/test.

    Raises:
        DataError: the layout is not there, a listed image is missing, a defective image has no mask
            where others have, or only good or only defective images remain.
    """
    samples = test_set(root, only)
    defective = sum(label != "good" for _, label, _ in samples)
    if defective == 0 or defective == len(samples):
        have = "only defective" if defective else "only good"
        raise DataError(
            f"{only or root / 'test'}: {len(samples)} images, {have} ones; metrics need images in "
            "test/good and in at least one test/<defect>"
        )
    if (root / "ground_truth").is_dir():
        without = [path for path, label, mask in samples if label != "good" and mask is None]
        if without:
            expected = (
                root / "ground_truth" / without[0].parent.name / f"{without[0].stem}_mask.png"
            )
            raise DataError(
                f"{len(without)} defective images have no mask, the first is {without[0]}; "
                f"expected {expected} (for image metrics alone, take the folder ground_truth away)"
            )
    return samples


def evaluate(
    engine: Any,
    root: Path,
    *,
    only: Path | None = None,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Predict every labelled image and measure.

    Args:
        engine: an `adfast.Engine`, or anything with its `predict` and `info`.
        root: data set folder, see the top of this file.
        only: see `find_samples`.
        show: called with the images done and the images in all.

    Returns:
        A dict in JSON's terms: "metrics", "pixels", "verdicts", "classes", "latency_ms", "rows".

    Raises:
        DataError: see `find_samples`; also a mask whose size differs from its image's.
        FrameError: an image cannot be read: figures on what is left would be those of another set.
    """
    root = Path(root)
    samples = find_samples(root, only)
    with_masks = any(mask is not None for _, _, mask in samples)
    if with_masks:
        metrics.require_regions()  # before the long part, not after it
    rows, empty, threshold = [], [], None
    with metrics.PixelScores() as pixels:
        for done, (path, label, mask_path) in enumerate(samples):
            show(done, len(samples))
            frame = read_image(path)
            result = engine.predict(frame)
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
                top, left, bottom, right = result.inspected
                inside = np.s_[top:bottom, left:right]
                mask = None
                if row.defective:
                    mask = read_mask(mask_path, frame.shape[:2])[inside]
                    if not mask.any():
                        empty.append(row.image)
                        continue
                pixels.add(result.map[inside], mask)
        show(len(samples), len(samples))
        measured = pixels.compute() if with_masks and len(empty) < _defects(rows) else None
    return _summary(rows, threshold, measured, empty)


def read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Read a ground-truth mask -> bool (H, W), True where the file is not zero.

    Raises:
        DataError: its size is not `shape`, the image's.
    """
    mask = read_image(path)
    if mask.shape[:2] != shape:
        raise DataError(
            f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]}; its image is "
            f"{shape[1]} x {shape[0]}"
        )
    return mask != 0 if mask.ndim == 2 else (mask != 0).any(axis=2)


def _defects(rows: Iterable[Row]) -> int:
    return sum(row.defective for row in rows)


def _summary(
    rows: list[Row],
    threshold: float | None,
    measured: metrics.PixelMetrics | None,
    empty: list[str],
) -> dict[str, Any]:
    labels = np.array([row.defective for row in rows])
    scores = np.array([row.score for row in rows])
    best, best_threshold = metrics.f1_max(labels, scores)
    good = scores[~labels]
    classes = []
    for label in sorted({row.label for row in rows}, key=lambda label: (label != "good", label)):
        own = [row for row in rows if row.label == label]
        values = np.array([row.score for row in own])
        entry = {
            "label": label,
            "images": len(own),
            "score_median": float(np.median(values)),
            "called_anomalous": None if threshold is None else sum(bool(r.anomalous) for r in own),
            "image_auroc": None,
        }
        if label != "good":
            against = np.concatenate([np.zeros(good.size, bool), np.ones(values.size, bool)])
            entry["image_auroc"] = metrics.image_auroc(against, np.concatenate([good, values]))
        classes.append(entry)
    verdicts = None
    if threshold is not None:
        false_alarms = sum(bool(row.anomalous) for row in rows if not row.defective)
        misses = sum(not row.anomalous for row in rows if row.defective)
        verdicts = {
            "threshold": float(threshold),
            "false_alarms": false_alarms,
            "false_alarm_rate": false_alarms / good.size,
            "misses": misses,
            "miss_rate": misses / _defects(rows),
        }
    latency = np.array([row.latency_ms for row in rows])
    return {
        "images": {"good": int(good.size), "defective": _defects(rows)},
        "metrics": {
            "image_auroc": metrics.image_auroc(labels, scores),
            "image_ap": metrics.average_precision(labels, scores),
            "f1_max": best,
            "f1_max_threshold": best_threshold,
            "pixel_auroc": measured.auroc if measured else None,
            "aupro": measured.aupro if measured else None,
        },
        "pixels": {
            "area": "the inspected rectangle of every frame, at the frame's resolution",
            **(
                {k: v for k, v in asdict(measured).items() if k not in ("auroc", "aupro")}
                if measured
                else {}
            ),
            "empty_masks": empty,
        },
        "verdicts": verdicts,
        "classes": classes,
        "latency_ms": {"median": float(np.median(latency)), "max": float(latency.max())},
        "rows": [asdict(row) for row in rows],
    }
