"""Self-contained HTML pages: tables, inline SVG, pictures as data URIs; one file, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adfast import overlay
from adfast.evaluate import read_mask
from adfast.files import atomic_write
from adfast.images import encode_png, read_image

_STYLE = """
:root { color-scheme: light dark; --line: #d5d9de; --soft: #f4f6f8; --text: #1b1f24; --dim: #5b6570;
  --page: #ffffff; --good: #26804a; --bad: #c82d28; --wrong: #b06a00; }
@media (prefers-color-scheme: dark) { :root { --line: #3a414a; --soft: #1d2228; --text: #e6e9ec;
  --dim: #98a2ad; --page: #13171b; --good: #53b87a; --bad: #f0716b; --wrong: #e0a040; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 1120px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; max-width: 52rem; } .dim { color: var(--dim); } code { font-size: .92em; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { color: var(--dim); font-weight: 500; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.tile { background: var(--soft); border-radius: .5rem; padding: .7rem 1.1rem; min-width: 7.5rem; }
.tile b { display: block; font-size: 1.45rem; font-weight: 600; } .tile span { color: var(--dim); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1.1rem; }
figure { margin: 0; background: var(--soft); border-radius: .5rem; overflow: hidden; }
figure div { display: flex; } figure img { flex: 1 1 0; min-width: 0; width: 100%; display: block; }
figcaption { padding: .45rem .8rem .6rem; font-size: .9rem; overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.wrong { color: var(--wrong); font-weight: 600; }
svg text { fill: var(--dim); font: 12px system-ui, sans-serif; } .wide, pre { overflow-x: auto; }
"""


@dataclass
class Html:
    """A piece of HTML that is already safe."""

    text: str


def page(title: str, parts: Iterable[Html]) -> str:
    """Assemble a whole page."""
    body = "\n".join(part.text for part in parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def write_page(path: Path, title: str, parts: Iterable[Html]) -> None:
    """Write a page, atomically."""
    with atomic_write(path, "w") as file:
        file.write(page(title, parts))


def heading(text: str) -> Html:
    """Return a section heading."""
    return Html(f"<h2>{html.escape(text)}</h2>")


def paragraph(text: str, dim: bool = False) -> Html:
    """Return a paragraph."""
    return Html(f"<p{' class=dim' if dim else ''}>{html.escape(text)}</p>")


def tiles(values: Sequence[tuple[str, str]]) -> Html:
    """Show a row of large figures with their names."""
    cells = (
        f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
        for name, value in values
    )
    return Html(f'<div class="tiles">{"".join(cells)}</div>')


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    """Return a table; the first column is text, the others are right-aligned."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return Html(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')


def figure(pictures: Sequence[np.ndarray], caption: str, tone: str = "", verdict: str = "") -> Html:
    """Show pictures, uint8 (H, W, 3), side by side; `tone` is its verdict's class."""
    images = "".join(
        '<img alt="" src="data:image/png;base64,'
        f'{base64.b64encode(encode_png(overlay.shrink(overlay.as_rgb(p), 320))).decode()}">'
        for p in pictures
    )
    word = f'<span class="{tone}">{html.escape(verdict)}</span> ' if verdict else ""
    return Html(
        f"<figure><div>{images}</div><figcaption>{word}{html.escape(caption)}</figcaption></figure>"
    )


def cards(figures: Iterable[Html]) -> Html:
    """Lay figures out in columns."""
    return Html(f'<div class="cards">{"".join(f.text for f in figures)}</div>')


def histogram(good: np.ndarray, defective: np.ndarray, threshold: float | None) -> Html:
    """Draw the scores of good and defective images, and the threshold, as SVG."""
    everything = np.concatenate([good, defective, [] if threshold is None else [threshold]])
    low, high = float(everything.min()), float(everything.max())
    # Scores of good images crowd at the low end; a logarithmic axis shows both ends when it can.
    log = low > 0 and high / low > 20
    to_axis = np.log10 if log else np.asarray
    edges = np.linspace(to_axis(low), to_axis(high) + 1e-9 * (abs(to_axis(high)) or 1), 41)
    if edges[-1] <= edges[0]:
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, 41)
    counts = [np.histogram(to_axis(values), edges)[0] for values in (good, defective)]
    tallest = max(1, *(int(count.max()) for count in counts))
    width, height, base = 760, 200, 170

    def across(value: float) -> float:
        return 10 + (width - 20) * (value - edges[0]) / (edges[-1] - edges[0])

    parts = []
    for values, colour in zip(counts, ("var(--good)", "var(--bad)"), strict=True):
        for k in np.flatnonzero(values):
            tall = 140 * values[k] / tallest
            parts.append(
                f'<rect x="{across(edges[k]):.1f}" y="{base - tall:.1f}" '
                f'width="{(width - 20) / 40:.1f}" '
                f'height="{tall:.1f}" fill="{colour}" fill-opacity="0.6"/>'
            )
    parts.append(f'<path d="M10 {base}H{width - 10}" stroke="var(--dim)"/>')
    if threshold is not None:
        x = across(float(to_axis(threshold)))
        side = ("end", -5) if x > width / 2 else ("start", 5)
        parts.append(
            f'<path d="M{x:.1f} 16V{base}" stroke="var(--text)" stroke-dasharray="4 3"/>'
            f'<text x="{x + side[1]:.1f}" y="24" text-anchor="{side[0]}">'
            f"threshold {overlay.number(threshold)}</text>"
        )
    axis = "score, logarithmic" if log else "score"
    parts.append(
        f'<text x="10" y="{base + 18}">{overlay.number(low)}</text>'
        f'<text x="{width / 2}" y="{base + 18}" text-anchor="middle">{axis}; green: good, red: '
        f"defective</text>"
        f'<text x="{width - 10}" y="{base + 18}" text-anchor="end">{overlay.number(high)}</text>'
    )
    return Html(
        f'<div class="wide"><svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="histogram of scores">{"".join(parts)}</svg></div>'
    )


def percent(value: float | None) -> str:
    """Write a share in percent with one decimal, a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval(ends: Sequence[float] | None) -> str:
    """Write an interval in percent, nothing for None."""
    return "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


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
    rows, verdicts, pixels = result["rows"], result["verdicts"], result["pixels"]
    values = result["metrics"]
    parts = [
        tiles(
            [
                ("image AUROC", percent(values["image_auroc"])),
                ("pixel AUROC", percent(values["pixel_auroc"])),
                ("AUPRO, FPR ≤ 0.3", percent(values["aupro"])),
                ("F1-max", percent(values["f1_max"])),
                ("average precision", percent(values["image_ap"])),
                ("ms median", f"{result['latency_ms']['median']:.2f}"),
            ]
        )
    ]
    images = result["images"]
    text = f"{images['good']} good and {images['defective']} defective images, percent. "
    if "images" in pixels:
        text += f"Pixel metrics: {pixels['area']}, {pixels['regions']} defect regions"
        if pixels["empty_masks"]:
            text += f"; {len(pixels['empty_masks'])} images with an empty mask left out"
        text += "."
    else:
        text += "No masks, so no pixel metrics."
    parts.append(paragraph(text, dim=True))
    if verdicts is None:
        parts.append(paragraph("The plan has no threshold: scores only, no verdicts."))
    else:
        parts.append(
            paragraph(
                f"At the plan's threshold {overlay.number(verdicts['threshold'])}: "
                f"{verdicts['false_alarms']} false alarms among {images['good']} good images "
                f"({percent(verdicts['false_alarm_rate'])} %), {verdicts['misses']} misses among "
                f"{images['defective']} defective ones ({percent(verdicts['miss_rate'])} %)."
            )
        )
    good = np.array([row["score"] for row in rows if not row["defective"]])
    defective = np.array([row["score"] for row in rows if row["defective"]])
    parts += [heading("Scores"), histogram(good, defective, verdicts and verdicts["threshold"])]
    parts.append(heading("By class"))
    parts.append(
        table(
            ["class", "images", "image AUROC", "median score", "called anomalous"],
            [
                (
                    entry["label"],
                    entry["images"],
                    percent(entry["image_auroc"]),
                    overlay.number(entry["score_median"]),
                    "–" if entry["called_anomalous"] is None else entry["called_anomalous"],
                )
                for entry in result["classes"]
            ],
        )
    )
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
    for title, chosen in groups:
        parts.append(heading(title))
        parts.append(cards(_example(engine, root, row) for row in chosen[:gallery]))
    return parts


def _example(engine: Any, root: Path, row: dict[str, Any]) -> Html:
    path = root / row["image"]
    frame = read_image(path)
    truth = None
    if row["mask"]:
        truth = read_mask(root / row["mask"], frame.shape[:2])
    return result_figure(frame, engine.predict(frame), row["image"], row["defective"], truth)


def result_figure(
    frame: np.ndarray,
    result: Any,
    name: str,
    defective: bool | None = None,
    truth: np.ndarray | None = None,
) -> Html:
    """Show frame, map and overlay side by side, with verdict, score and threshold below."""
    scale = overlay.full_scale(result.map, result.threshold)
    pictures = [
        overlay.as_rgb(frame),
        overlay.map_picture(result.map, scale),
        overlay.overlay(frame, result.map, scale=scale, mask=result.mask, truth=truth),
    ]
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
