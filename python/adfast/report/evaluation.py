"""The report of one evaluation: figures, curves, classes, worst images, latency, provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adfast import overlay
from adfast.evaluate import read_mask
from adfast.images import read_image, to_uint8
from adfast.report import charts
from adfast.report.page import (
    Html,
    cards,
    facts,
    figure,
    heading,
    interval,
    paragraph,
    percent,
    table,
    tiles,
)

#: Metrics of an evaluation by the order and titles they are shown in.
METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "average precision",
    "f1_max": "F1-max",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO, FPR ≤ 0.3",
}


def evaluation_parts(
    engine: Any, root: Path, result: dict[str, Any], gallery: int = 6
) -> list[Html]:
    """Turn what `evaluate` returned into sections; the worst images are predicted again."""
    return [
        *_summary(result),
        heading("Curves"),
        charts.charts(_charts(result)),
        heading("By class"),
        *_classes(result),
        *_gallery(engine, root, result, gallery),
        heading("How the figures were made"),
        *_method(result),
    ]


def provenance_parts(result: dict[str, Any]) -> list[Html]:
    """Say what was evaluated, on what, with what and where."""
    made, engine = result["provenance"], dict(result["engine"])
    machine = made["machine"]
    return [
        heading("Provenance"),
        facts(
            {
                "model": made["file"],
                "SHA-256": made["sha256"],
                "computed by": ", ".join(f"{k} {v}" for k, v in engine.items() if k != "adfast"),
                "data set": made["data"],
                "list of images": made["list"],
                "pixel format": result["pixel_format"] or "8 bits",
                "adfast": made["adfast"],
                "machine": ", ".join(f"{k} {v}" for k, v in machine.items()),
                "made": made["created"],
            }
        ),
    ]


def _summary(result: dict[str, Any]) -> list[Html]:
    values, verdicts, pixels = result["metrics"], result["verdicts"], result["pixels"]
    latency, images = result["latency_ms"], result["images"]
    shown = [
        (title, percent(values[name]), interval(result["intervals"].get(name)))
        for name, title in METRICS.items()
    ]
    shown.append(("ms median", f"{latency['median']:.2f}", _tails(latency)))
    text = f"{images['good']} good and {images['defective']} defective images; percent"
    if result["intervals"]:
        text += f", with {100 * result['bootstrap']['level']:g} % intervals"
    if "images" not in pixels:
        text += ". No masks, so no pixel metrics."
    else:
        text += f". Pixel metrics: {pixels['area']}, {pixels['regions']} defect regions"
        if pixels["empty_masks"]:
            text += f"; {len(pixels['empty_masks'])} images with an empty mask there left out"
        text += "."
    parts = [tiles(shown), paragraph(text, dim=True)]
    if verdicts is None:
        return [*parts, paragraph("There is no threshold: scores only, no verdicts.")]
    parts.append(
        paragraph(
            f"At the plan's threshold {overlay.number(verdicts['threshold'])}: "
            f"{verdicts['false_alarms']} false alarms among {images['good']} good images "
            f"({percent(verdicts['false_alarm_rate'])} %, interval "
            f"{interval(verdicts['false_alarm_interval'])}), {verdicts['misses']} misses among "
            f"{images['defective']} defective ones ({percent(verdicts['miss_rate'])} %, interval "
            f"{interval(verdicts['miss_interval'])})."
        )
    )
    made = result.get("provenance", {}).get("threshold")
    if made:
        parts.append(paragraph(f"The plan says: {'; '.join(made)}.", dim=True))
    return parts


def _tails(latency: dict[str, float | None]) -> str:
    return ", ".join(f"{k} {latency[k]:.2f}" for k in ("p90", "p99") if latency[k] is not None)


def _charts(result: dict[str, Any]) -> list[Html]:
    rows, verdicts, curves = result["rows"], result["verdicts"], result["curves"]
    good = np.array([row["score"] for row in rows if not row["defective"]])
    defective = np.array([row["score"] for row in rows if row["defective"]])
    drawn = [charts.scores(good, defective, verdicts and verdicts["threshold"])]
    limit = result["pixels"].get("fpr_limit", 1.0)
    for name, title, names, end in (
        ("roc", "ROC of images", ("good images above", "defective images above"), 1.0),
        ("pro", f"PRO, FPR ≤ {limit:g}", ("normal pixels above", "mean overlap of regions"), limit),
        ("pixel_roc", "ROC of pixels", ("normal pixels above", "defect pixels above"), 1.0),
    ):
        if name in curves:
            drawn.append(charts.curve(title, **curves[name], names=names, limit=end))
    drawn.append(charts.latencies(np.array([row["latency_ms"] for row in rows])))
    return drawn


def _classes(result: dict[str, Any]) -> list[Html]:
    with_pixels = result["metrics"]["pixel_auroc"] is not None
    shown = {name: title for name, title in METRICS.items() if with_pixels or "image" in name}
    shown.pop("f1_max", None)
    of_class = [entry for entry in result["classes"] if entry["label"] != "good"]
    everything = {
        **result["metrics"],
        "label": "all defects",
        "images": result["images"]["defective"],
        "intervals": result["intervals"],
    }
    rows = []
    for entry in [*result["classes"], everything]:
        called, median = entry.get("called_anomalous"), entry.get("score_median")
        rows.append(
            [
                entry["label"],
                entry["images"],
                *((percent(entry[name]), interval(entry["intervals"].get(name))) for name in shown),
                "" if median is None else overlay.number(median),
                "" if called is None else called,
            ]
        )
    drawn = [
        charts.intervals(
            f"{METRICS[name]} by class",
            [
                (entry["label"], entry[name], entry["intervals"].get(name))
                for entry in of_class
                if entry[name] is not None
            ],
            result["metrics"][name],
        )
        for name in ("image_auroc", "aupro")
        if result["metrics"][name] is not None and len(of_class) > 1
    ]
    header = ["class", "images", *shown.values(), "median score", "called anomalous"]
    parts = [
        table(header, rows, whole=1),
        paragraph("Every class is measured against all good images.", dim=True),
    ]
    if drawn:
        parts.append(charts.charts(drawn))
        parts.append(paragraph("Dashed: all defects together.", dim=True))
    return parts


def _gallery(engine: Any, root: Path, result: dict[str, Any], gallery: int) -> list[Html]:
    rows, verdicts = result["rows"], result["verdicts"]
    by_score = sorted(rows, key=lambda row: row["score"])
    missed = [row for row in by_score if row["defective"] and row["anomalous"] is not True]
    alarms = [
        row for row in by_score[::-1] if not row["defective"] and row["anomalous"] is not False
    ]
    # With no miss or no alarm (or no threshold) the nearest to one is still worth a look.
    groups = (
        ("Worst misses" if verdicts and missed else "Lowest-scoring defective images",
         missed or [row for row in by_score if row["defective"]]),
        ("Worst false alarms" if verdicts and alarms else "Highest-scoring good images",
         alarms or [row for row in by_score[::-1] if not row["defective"]]),
    )  # fmt: skip
    parts = []
    for title, chosen in groups:
        parts.append(heading(title))
        if not parts[1:]:
            parts.append(
                paragraph(
                    "Frame, anomaly map, both together. Cyan: the labelled defect; white: where "
                    "the map is over the threshold. The brightest colour is twice the threshold "
                    "and more (without a threshold, the map's own maximum).",
                    dim=True,
                )
            )
        outside = set(result["pixels"]["empty_masks"])
        parts.append(
            cards(
                _example(engine, root, row, row["image"] in outside, result["pixel_format"])
                for row in chosen[:gallery]
            )
        )
    return parts


def _method(result: dict[str, Any]) -> list[Html]:
    made, spent = result["bootstrap"], result["seconds"]
    text = (
        "All figures are exact: pixel AUROC and AUPRO come from every pixel, not from a list of "
        "thresholds. An AUROC below 50 is reported as it is. F1-max and its threshold are chosen "
        "on these very labels: an upper bound, not an operating point."
    )
    parts = [paragraph(text)]
    if made["resamples"]:
        text = (
            f"Intervals: {100 * made['level']:g} % percentile bootstrap, {made['resamples']} "
            f"draws of images with replacement, good and defective ones apart, seed "
            f"{made['seed']}. They say how far a figure would move with other images of the same "
            "kind, and nothing of kinds that the set lacks: a perfect figure has an interval "
            "without width."
        )
        if made["pixel_error"]:
            off = made["pixel_error"]
            text += (
                " The pixel figures of a draw come from histograms of each image, which moves a "
                f"pixel AUROC by at most {100 * off['pixel_auroc']:.2g} and an AUPRO by at most "
                f"{100 * off['aupro']:.2g} percentage points."
            )
        if result["verdicts"]:
            text += " Those of the false-alarm and miss rates are exact (Clopper and Pearson)."
        parts.append(paragraph(text))
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent.items())
    return [*parts, paragraph(f"Time: {took}.", dim=True)]


def _example(
    engine: Any, root: Path, row: dict[str, Any], outside: bool, pixel_format: str
) -> Html:
    frame = read_image(root / row["image"], pixel_format)
    truth = None
    if row["mask"]:
        truth = read_mask(root / row["mask"], frame.shape[:2])
    name = row["image"] + (" (no defect in the inspected part)" if outside else "")
    predicted = engine.predict(frame, pixel_format=pixel_format)
    seen = to_uint8(frame, pixel_format)
    return result_figure(seen, predicted, name, row["defective"], truth)


def result_figure(
    frame: np.ndarray,
    result: Any,
    name: str,
    defective: bool | None = None,
    truth: np.ndarray | None = None,
) -> Html:
    """Show frame, map and overlay side by side, with verdict, score and threshold below."""
    scale = overlay.full_scale(result.map, result.threshold)
    both = overlay.overlay(frame, result.map, scale=scale, mask=result.mask, truth=truth)
    pictures = {
        "frame": overlay.as_rgb(frame),
        "anomaly map": overlay.map_picture(result.map, scale),
        "overlay": both,
    }
    caption = f"{name}: score {overlay.number(result.score)}"
    if result.is_anomalous is None:
        return figure(pictures, caption)
    caption += f", threshold {overlay.number(result.threshold)}"
    verdict = "anomalous" if result.is_anomalous else "normal"
    tone = "bad" if result.is_anomalous else "good"
    if defective is not None and defective != result.is_anomalous:
        verdict += " (missed)" if defective else " (false alarm)"
        tone = "wrong"
    return figure(pictures, caption, tone, verdict)
