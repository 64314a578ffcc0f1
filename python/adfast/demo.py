"""The demo's page: what a freshly trained plan says about generated parts, good and defective."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from adfast import overlay, report
from adfast.evaluate import read_mask
from adfast.images import read_image, write_png
from adfast.predict import make_folder


def write_page(
    out: Path,
    engine: Any,
    plan: dict[str, Any],
    data: Path,
    evaluation: dict[str, Any],
    bench: dict[str, Any],
    selftest: dict[str, Any],
    weights: str,
    commands: list[str],
) -> Path:
    """Write `out`/index.html and `out`/pictures/*.png; returns the page.

    Args:
        out: the demo's folder, which exists.
        engine: the engine that runs the plan.
        plan: what the plan file holds, from `adfast._core.read_plan`.
        data: the generated data set.
        evaluation: from `adfast.evaluate.evaluate`.
        bench: from `adfast.benchmark.measure`.
        selftest: from `Engine.self_test`.
        weights: the frozen trunk's weights, a file name or "none".
        commands: the command lines the demo ran.
    """
    make_folder(out / "pictures")
    figures = []
    for row in choose(evaluation["rows"]):
        frame = read_image(data / row["image"])
        result = engine.predict(frame)
        truth = read_mask(data / row["mask"], frame.shape[:2]) if row["mask"] else None
        figures.append(report.result_figure(frame, result, row["image"], row["defective"], truth))
        label, stem = Path(row["image"]).parts[-2:]
        write_png(out / "pictures" / f"{label}_{Path(stem).stem}.png", strip(frame, result, truth))
    call = bench["stages"]["call"]
    engine_line = ", ".join(f"{key} {value}" for key, value in bench["engine"].items())
    parts = [
        report.paragraph(trunk_note(weights)),
        report.paragraph(
            "The parts below are drawn by a program, so their defects are as plain as it makes "
            "them: the figures show that the whole chain works, not how well it does in a factory."
        ),
        report.heading("Frame, anomaly map, overlay"),
        report.paragraph(
            "White: where the map is over the threshold. Cyan: where the defect really is. "
            "The brightest colour stands for twice the threshold and more.",
            dim=True,
        ),
        report.cards(figures),
        report.heading("Measured on all test images"),
        *report.evaluation_parts(engine, data, evaluation, gallery=3),
        report.heading("Latency"),
        report.tiles(
            [
                ("ms, median", f"{call['p50']:.2f}"),
                ("ms, slowest of 100", "–" if call["p99"] is None else f"{call['p99']:.2f}"),
                ("frames per second", f"{bench['frames_per_second']:.0f}"),
            ]
        ),
        report.table(
            ["ms", *call],
            [
                [stage, *("–" if value is None else f"{value:.3f}" for value in summary.values())]
                for stage, summary in bench["stages"].items()
            ],
        ),
        report.paragraph(f"{bench['machine']['processor']}, {engine_line}", dim=True),
        report.paragraph(bench["protocol"], dim=True),
        report.heading("Does the engine compute what was trained?"),
        *parity(plan, selftest),
        report.heading("How this came about"),
        report.Html("<pre>" + "\n".join(f"$ {_escape(line)}" for line in commands) + "</pre>"),
    ]
    path = out / "index.html"
    report.write_page(path, "adfast demo: a flange, good and defective", parts)
    return path


def trunk_note(weights: str) -> str:
    """Say whether the frozen trunk has learned anything."""
    if weights == "none":
        return (
            "The frozen trunk of this model has random weights: nothing was downloaded and none "
            "were given. Plain defects are found all the same, subtle ones are often missed; "
            "with ImageNet weights (adfast demo --weights FILE) it sees far more."
        )
    return f"The frozen trunk of this model has the weights of {weights}."


def choose(rows: list[dict[str, Any]], per_label: int = 2) -> list[dict[str, Any]]:
    """Choose the first images of every label, good ones first: a rule blind to the scores."""
    labels = sorted({row["label"] for row in rows}, key=lambda label: (label != "good", label))
    return [row for label in labels for row in [r for r in rows if r["label"] == label][:per_label]]


def strip(frame: np.ndarray, result: Any, truth: np.ndarray | None) -> np.ndarray:
    """Put frame, map and overlay side by side over the verdict: uint8 (H + band, 3 W + 8, 3)."""
    scale = overlay.full_scale(result.map, result.threshold)
    gap = np.full((frame.shape[0], 4, 3), 255, np.uint8)
    blended = overlay.overlay(frame, result.map, scale=scale, mask=result.mask, truth=truth)
    row = [overlay.as_rgb(frame), gap, overlay.map_picture(result.map, scale), gap, blended]
    return overlay.with_verdict(
        np.concatenate(row, axis=1), result.score, result.threshold, result.is_anomalous
    )


def parity(plan: dict[str, Any], selftest: dict[str, Any]) -> list[report.Html]:
    """Show the parity report the plan carries and the self-test just made."""
    measured = json.loads(plan["parity"])
    rows = [
        (
            name,
            *(
                f"{values[key]:.1e}" if key in values else "–"
                for key in ("map_max_rel", "score_max_rel")
            ),
        )
        for name, values in measured.items()
        if isinstance(values, dict) and "map_max_rel" in values
    ]
    worst = max(frame["map_error"] for frame in selftest["frames"])
    parts = [
        report.paragraph(
            f"Self-test on this machine: {'passed' if selftest['passed'] else 'FAILED'} in "
            f"{selftest['precision']}, largest error {worst:.1e} of the map's maximum, "
            f"tolerance {selftest['tolerance']:.1e}."
        )
    ]
    if rows:
        images = measured.get("images")
        parts.append(
            report.paragraph(
                f"When the plan was built, against {measured.get('reference', 'the trained model')}"
                + (f" on {images} images:" if images else ":")
            )
        )
        parts.append(report.table(["largest relative difference", "map", "score"], rows))
    return parts


def _escape(text: str) -> str:
    import html

    return html.escape(text)
