"""Reports as self-contained HTML: `page` has the pieces, `charts` the SVG, the rest the words."""

from adfast.report.evaluation import METRICS, evaluation_parts, provenance_parts, result_figure
from adfast.report.overview import overview_parts
from adfast.report.page import (
    Html,
    cards,
    facts,
    heading,
    interval,
    link,
    paragraph,
    percent,
    table,
    tiles,
    write_page,
)

__all__ = [
    "METRICS",
    "Html",
    "cards",
    "evaluation_parts",
    "facts",
    "heading",
    "interval",
    "link",
    "overview_parts",
    "paragraph",
    "percent",
    "provenance_parts",
    "result_figure",
    "table",
    "tiles",
    "write_page",
]
