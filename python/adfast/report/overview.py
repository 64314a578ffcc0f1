"""The report over all categories: means, the papers' figures beside them, links to each report."""

from __future__ import annotations

from typing import Any

from adfast import published
from adfast.categories import having
from adfast.report import charts
from adfast.report.evaluation import METRICS
from adfast.report.page import Html, heading, interval, link, paragraph, percent, table, tiles

#: Metrics that papers give, each with a table of its own.
_BESIDE = ("image_auroc", "pixel_auroc", "aupro")


def overview_parts(document: dict[str, Any], pages: dict[str, str]) -> list[Html]:
    """Turn an evaluation over categories into sections.

    Args:
        document: as written to results.json: "categories", "means", "missing".
        pages: category -> file name of its report.
    """
    results, means = document["categories"], document["means"]
    whole = means["mean of all"]
    parts = [
        tiles(
            [
                (title, percent(whole["metrics"][name]), interval(whole["intervals"].get(name)))
                for name, title in METRICS.items()
            ]
        ),
        paragraph(
            f"Mean over {len(results)} categories, each counting once; percent, 95 % intervals.",
            dim=True,
        ),
    ]
    if document["missing"]:
        parts.append(
            paragraph(
                f"Without a model, so not in any mean: {', '.join(document['missing'])}. The means "
                f"are over {len(results)} of {len(results) + len(document['missing'])} categories."
            )
        )
    bare = [name for name, found in results.items() if found["metrics"]["aupro"] is None]
    if bare:
        parts.append(
            paragraph(f"Without masks, so without pixel figures: {', '.join(bare)}.", dim=True)
        )
    models = {found["engine"]["model"] for found in results.values()}
    parts += [_charts(results, means), paragraph("Dashed: the mean of all.", dim=True)]
    for metric in _BESIDE:
        parts += [heading(METRICS[metric]), *_beside(results, means, pages, metric, models)]
    parts += [heading("Verdicts and time"), _verdicts(results)]
    parts.append(
        paragraph(
            "The interval of a mean takes the categories for independent: the root of their "
            "summed squared widths, divided by their number.",
            dim=True,
        )
    )
    return parts


def _beside(
    results: dict[str, Any],
    means: dict[str, Any],
    pages: dict[str, str],
    metric: str,
    models: set[str],
) -> list[Html]:
    papers = published.find(models, metric)
    rows = []
    for name, found in results.items():
        own = (percent(found["metrics"][metric]), interval(found["intervals"].get(metric)))
        theirs = (_figure(each.over([name])) for each in papers)
        rows.append([link(pages[name], name), own, *theirs])
    for title, found in means.items():
        own = (percent(found["metrics"][metric]), interval(found["intervals"].get(metric)))
        measured = having(results, found["categories"], metric)
        theirs = (_figure(each.over(measured)) for each in papers)
        rows.append([title, own, *theirs])
    header = ["category", "here", *(f"{each.name}, published" for each in papers)]
    parts = [table(header, rows, whole=len(means))]
    if papers:
        sources = ", ".join(dict.fromkeys(each.source for each in papers))
        parts.append(
            paragraph(
                f"Published on MVTec AD, with each paper's own backbone and size: {sources}. A "
                "published mean over a part of the categories is that of the printed rows.",
                dim=True,
            )
        )
    return parts


def _charts(results: dict[str, Any], means: dict[str, Any]) -> Html:
    drawn = []
    for metric in _BESIDE:
        shown = [
            (name, results[name]["metrics"][metric], results[name]["intervals"].get(metric))
            for name in having(results, results, metric)
        ]
        if len(shown) > 1:
            mean = means["mean of all"]["metrics"][metric]
            drawn.append(charts.intervals(METRICS[metric], shown, mean))
    return charts.charts(drawn)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _verdicts(results: dict[str, Any]) -> Html:
    rows = []
    for name, found in results.items():
        verdicts, images, latency = found["verdicts"], found["images"], found["latency_ms"]
        called = ("–", "–")
        if verdicts is not None:
            called = (
                (verdicts["false_alarms"], f"{percent(verdicts['false_alarm_rate'])} %"),
                (verdicts["misses"], f"{percent(verdicts['miss_rate'])} %"),
            )
        counts = images["good"], images["defective"]
        rows.append([name, *counts, *called, f"{latency['median']:.1f}"])
    return table(["category", "good", "defective", "false alarms", "misses", "ms median"], rows)
