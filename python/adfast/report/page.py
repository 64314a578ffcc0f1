"""Pieces of a self-contained HTML page: tables, pictures as data URIs; one file, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adfast import overlay
from adfast.files import atomic_write
from adfast.images import encode_png

_STYLE = """
:root { color-scheme: light dark; --line: #d9dde2; --soft: #f4f6f8; --text: #1b1f24; --dim: #5b6570;
  --page: #ffffff; --good: #26804a; --bad: #c82d28; --wrong: #b06a00; --blue: #1f6fc4;
  --red: #d2542c; }
@media (prefers-color-scheme: dark) { :root { --line: #343b43; --soft: #1d2228; --text: #e6e9ec;
  --dim: #98a2ad; --page: #13171b; --good: #53b87a; --bad: #f0716b; --wrong: #e0a040;
  --blue: #5aa2ea; --red: #f0865c; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 1120px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; max-width: 52rem; } .dim { color: var(--dim); } code { font-size: .92em; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; color: var(--dim); font-weight: 500; }
th:first-child, td:first-child, .facts td { text-align: left; }
.facts td { overflow-wrap: anywhere; vertical-align: top; } .facts td:first-child {
  color: var(--dim); white-space: nowrap; }
td small { display: block; color: var(--dim); white-space: nowrap; }
tr.whole td { font-weight: 600; } tr.whole small { font-weight: 400; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.tile { background: var(--soft); border-radius: .5rem; padding: .7rem 1rem; flex: 1 1 8rem;
  max-width: 14rem; }
.tile b { display: block; font-size: 1.45rem; font-weight: 600; } .tile span { color: var(--dim); }
.tile small { display: block; color: var(--dim); }
.charts, .cards { display: flex; flex-wrap: wrap; gap: 1.1rem; margin: .8rem 0;
  align-items: flex-start; }
.charts svg, .cards figure { flex: 1 1 20rem; max-width: 23rem; min-width: 0; }
figure { margin: 0; background: var(--soft); border-radius: .5rem; overflow: hidden; }
figure div { display: flex; } figure img { flex: 1 1 0; min-width: 0; width: 100%; display: block; }
figcaption { padding: .45rem .8rem .6rem; font-size: .9rem; overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.wrong { color: var(--wrong); font-weight: 600; }
svg { height: auto; display: block; }
svg text { fill: var(--dim); font: 12px system-ui, sans-serif; }
svg text.title { fill: var(--text); font-weight: 600; font-size: 13px; }
.wide, pre { overflow-x: auto; }
@media (max-width: 40rem) { body { margin: 1.2rem auto; padding: 0 .8rem; } }
@media print { :root { color-scheme: light; --line: #ccc; --soft: #fff; --text: #000; --dim: #444;
  --page: #fff; --blue: #1f6fc4; --red: #d2542c; --good: #26804a; --bad: #c82d28; }
  body { font-size: 10.5px; margin: 0; max-width: none; padding: 0; }
  .charts svg, .cards figure { flex: 0 0 47%; max-width: none; } h2 { break-after: avoid; }
  figure, svg, tr, .tile { break-inside: avoid; } .tile { border: 1px solid var(--line); }
  figure { border: 1px solid var(--line); } .wide, pre { overflow: visible; } }
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


def tiles(values: Sequence[tuple[str, ...]]) -> Html:
    """Show a row of large figures: (name, value), or (name, value, small print)."""
    cells = (
        f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(name)}</span>'
        + "".join(f"<small>{html.escape(text)}</small>" for text in small if text)
        + "</div>"
        for name, value, *small in values
    )
    return Html(f'<div class="tiles">{"".join(cells)}</div>')


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], whole: int = 0) -> Html:
    """Return a table; the first column is text, the others are right-aligned.

    Args:
        header: titles of the columns.
        rows: cells; a tuple is a value and the small print below it.
        whole: how many rows at the end are sums or means, set off in bold.
    """
    rows = list(rows)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        ("<tr class=whole>" if k >= len(rows) - whole else "<tr>")
        + "".join(f"<td>{_cell(cell)}</td>" for cell in row)
        + "</tr>"
        for k, row in enumerate(rows)
    )
    return Html(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')


def facts(values: Mapping[str, Any]) -> Html:
    """Return a table of names and what they are."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{_cell(value)}</td></tr>"
        for name, value in values.items()
        if value is not None
    )
    return Html(f'<table class="facts">{rows}</table>')


def _cell(cell: Any) -> str:
    if isinstance(cell, Html):
        return cell.text
    if isinstance(cell, tuple):
        value, small = (html.escape(str(part)) for part in cell)
        return f"{value}<small>{small}</small>" if small else value
    return html.escape(str(cell))


def link(target: str, text: str) -> Html:
    """Return a link to a file beside the page."""
    return Html(f'<a href="{html.escape(target, quote=True)}">{html.escape(text)}</a>')


def figure(
    pictures: Mapping[str, np.ndarray], caption: str, tone: str = "", verdict: str = ""
) -> Html:
    """Show pictures, name -> uint8 (H, W, 3), side by side; `tone` is its verdict's class."""
    images = "".join(
        f'<img alt="{html.escape(name, quote=True)}" src="data:image/png;base64,'
        f'{base64.b64encode(encode_png(overlay.shrink(overlay.as_rgb(p), 320))).decode()}">'
        for name, p in pictures.items()
    )
    word = f'<span class="{tone}">{html.escape(verdict)}</span> ' if verdict else ""
    return Html(
        f"<figure><div>{images}</div><figcaption>{word}{html.escape(caption)}</figcaption></figure>"
    )


def cards(figures: Iterable[Html]) -> Html:
    """Lay figures out in columns."""
    return Html(f'<div class="cards">{"".join(f.text for f in figures)}</div>')


def percent(value: float | None) -> str:
    """Write a share in percent with one decimal, a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval(ends: Sequence[float] | None) -> str:
    """Write an interval in percent, nothing for None."""
    return "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
