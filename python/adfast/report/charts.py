"""Charts as inline SVG: no script, no font, no network; one width fits a phone, several a desk."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from adfast.overlay import number
from adfast.report.page import Html

_WIDTH, _HEIGHT = 420, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 408, 26, 246
_BINS = 40


def chart(title: str, body: list[str], height: int = _HEIGHT) -> Html:
    """Wrap the parts of a drawing, 420 units wide."""
    name = html.escape(title, quote=True)
    return Html(
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{name}">'
        f'<text class="title" x="{_LEFT}" y="15">{name}</text>{"".join(body)}</svg>'
    )


def charts(drawn: Sequence[Html]) -> Html:
    """Lay charts out side by side, as many as fit."""
    return Html(f'<div class="charts">{"".join(each.text for each in drawn)}</div>')


def curve(
    title: str,
    points: Sequence[Sequence[float]],
    operating: Sequence[float] | None = None,
    *,
    names: tuple[str, str],
    limit: float = 1.0,
) -> Html:
    """Draw a measured curve of two shares, up to `limit` on the horizontal axis.

    Args:
        title: what is drawn.
        points: (x, y) in [0, 1], x not falling.
        operating: the point of the threshold, marked where it is within `limit`.
        names: of the two axes.
        limit: in (0, 1].
    """
    x, y = np.array(points, float).T
    inside = x <= limit
    xs, ys = x[inside], y[inside]
    if not inside.all() and xs[-1] < limit:
        xs, ys = np.append(xs, limit), np.append(ys, np.interp(limit, x, y))
    places = [(_across(a / limit), _up(b)) for a, b in zip(xs, ys, strict=True)]
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    body = [
        *_grid(
            [(tick, tick / limit) for tick in _round_steps(0, limit, 5)],
            [(tick, tick) for tick in _round_steps(0, 1, 5)],
        ),
        f'<path d="M{path}L{places[-1][0]:.1f} {_BOTTOM}H{_LEFT}Z" fill="var(--blue)" '
        'fill-opacity="0.12"/>',
        f'<path d="M{path}" fill="none" stroke="var(--blue)" stroke-width="2" '
        'stroke-linejoin="round"/>',
        *_names(*names),
    ]
    if operating is not None:
        body += _operating(*operating, limit)
    return chart(title, body)


def _operating(x: float, y: float, limit: float) -> list[str]:
    if x > limit:
        note = f"threshold: beyond, at {100 * x:.1f} % / {100 * y:.1f} %"
        return [_text(_RIGHT - 6, _BOTTOM - 8, note, "end")]
    across, up = _across(x / limit), _up(y)
    low = y > 0.85
    left = x / limit > 0.45
    return [
        f'<circle cx="{across:.1f}" cy="{up:.1f}" r="5" fill="var(--page)" stroke="var(--text)" '
        'stroke-width="2"/>',
        _text(
            across - 9 if left else across + 9,
            up + 18 if low else up - 7,
            f"threshold: {100 * x:.1f} % / {100 * y:.1f} %",
            "end" if left else "start",
        ),
    ]


def scores(good: np.ndarray, defective: np.ndarray, threshold: float | None) -> Html:
    """Draw how the scores of good (up) and defective images (down) are spread, and the threshold.

    Bars are shares of their own kind, so that a hundred good images compare with ten defective
    ones. The axis is logarithmic where the scores span more than a factor of 20.
    """
    everything = np.concatenate([good, defective, [] if threshold is None else [threshold]])
    axis = _Axis(everything)
    edges = np.linspace(0, 1, _BINS + 1)
    shares = [
        np.histogram(np.clip([axis.place(v) for v in values], 0, 1), edges)[0] / values.size
        for values in (good, defective)
    ]
    tallest = max(float(share.max()) for share in shares)
    middle, half = (_TOP + _BOTTOM) / 2, (_BOTTOM - _TOP) / 2 - 2
    width = (_RIGHT - _LEFT) / _BINS
    body = _grid(axis.ticks(), [])
    for values, colour, sign in zip(shares, ("var(--blue)", "var(--red)"), (-1, 1), strict=True):
        for k in np.flatnonzero(values):
            tall = half * values[k] / tallest
            top = middle - tall if sign < 0 else middle
            body.append(
                f'<rect x="{_across(edges[k]):.1f}" y="{top:.1f}" width="{width - 0.8:.1f}" '
                f'height="{tall:.1f}" fill="{colour}"/>'
            )
    body.append(f'<path d="M{_LEFT} {middle}H{_RIGHT}" stroke="var(--dim)"/>')
    if threshold is not None:
        at = _across(axis.place(threshold))
        left = at > (_LEFT + _RIGHT) / 2
        body.append(
            f'<path d="M{at:.1f} {_TOP}V{_BOTTOM}" stroke="var(--text)" stroke-dasharray="4 3"/>'
        )
        body.append(
            _text(
                at - 5 if left else at + 5,
                _BOTTOM - 6,
                f"threshold {number(threshold)}",
                "end" if left else "start",
            )
        )
    body.append(_side(f"share, up to {100 * tallest:.0f} %"))
    name = "score, logarithmic" if axis.log else "score"
    body += [
        _text((_LEFT + _RIGHT) / 2, _HEIGHT - 8, name, "middle"),
        _text(_RIGHT - 130, 15, f"▲ {good.size} good", "end", "var(--blue)"),
        _text(_RIGHT, 15, f"▼ {defective.size} defective", "end", "var(--red)"),
    ]
    return chart("Scores", body)


def latencies(values: np.ndarray) -> Html:
    """Draw how many images took how many milliseconds."""
    axis = _Axis(values, log=False)
    counts = np.histogram([axis.place(v) for v in values], np.linspace(0, 1, _BINS + 1))[0]
    tallest = int(counts.max())
    width = (_RIGHT - _LEFT) / _BINS
    body = _grid(axis.ticks(), [(tallest, 1.0)])
    for k in np.flatnonzero(counts):
        tall = (_BOTTOM - _TOP) * counts[k] / tallest
        body.append(
            f'<rect x="{_across(k / _BINS):.1f}" y="{_BOTTOM - tall:.1f}" '
            f'width="{width - 0.8:.1f}" height="{tall:.1f}" fill="var(--blue)"/>'
        )
    body += _names("milliseconds", "images")
    return chart("Time per image", body)


def intervals(
    title: str, rows: Sequence[tuple[str, float, Sequence[float] | None]], whole: float
) -> Html:
    """Draw figures in [0, 1] with their intervals, one a line, and a dashed line at `whole`."""
    lowest = min([whole, *(ends[0] if ends else value for _, value, ends in rows)])
    low = min(0.9, np.floor(10 * lowest) / 10)
    height = 26 * len(rows) + _TOP + 34
    left = 110

    def across(value: float) -> float:
        return left + (_RIGHT - left) * (value - low) / (1 - low)

    bottom = height - 24
    body = []
    for tick in _round_steps(low, 1.0, 5):
        at = across(tick)
        body.append(f'<path d="M{at:.1f} {_TOP}V{bottom}" stroke="var(--line)"/>')
        body.append(_text(at, bottom + 16, f"{100 * tick:g}", "middle"))
    at = across(whole)
    body.append(
        f'<path d="M{at:.1f} {_TOP}V{bottom}" stroke="var(--text)" stroke-dasharray="4 3"/>'
    )
    for k, (name, value, ends) in enumerate(rows):
        up = _TOP + 26 * k + 15
        body.append(_text(left - 10, up + 4, name[:16], "end"))
        if ends:
            body.append(
                f'<path d="M{across(ends[0]):.1f} {up}H{across(ends[1]):.1f}" '
                'stroke="var(--blue)" stroke-width="3" stroke-linecap="round"/>'
            )
        body.append(f'<circle cx="{across(value):.1f}" cy="{up}" r="5" fill="var(--blue)"/>')
    return chart(title, body, height)


def bars(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float, bool]]]]) -> Html:
    """Draw groups of positive figures as bars from the smallest, the longest of a group full width.

    Args:
        title: what is drawn.
        groups: name, and (name, value, ours) of each bar; ours are drawn in the other colour.
    """
    left, line = 140, 15
    body, up = [], _TOP + 6
    for name, rows in groups:
        up += line
        body.append(_text(12, up, name, "start", "var(--text)"))
        largest = max((value for _, value, _ in rows), default=1.0)
        for label, value, ours in sorted(rows, key=lambda row: row[1]):
            up += line
            width = (_RIGHT - left - 56) * value / largest
            colour = "var(--blue)" if ours else "var(--line)"
            body.append(_text(left - 8, up, label, "end", "var(--blue)" if ours else ""))
            body.append(
                f'<rect x="{left}" y="{up - 10}" width="{width:.1f}" height="{line - 4}" '
                f'fill="{colour}"/>'
            )
            body.append(_text(left + width + 6, up, number(value), "start"))
        up += 8
    return chart(title, body, up + 8)


def standalone(drawn: Html) -> str:
    """Make an SVG file of a chart, which brings the colours of a page along."""
    return drawn.text.replace(
        "<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 140}" ', 1
    ).replace(
        ">",
        "><style>svg { --page: #ffffff; --text: #1b1f24; --dim: #5b6570; --line: #c3c9d0; "
        "--blue: #1f6fc4; --red: #d2542c; background: var(--page) } "
        "text { fill: var(--dim); font: 12px system-ui, sans-serif } "
        "text.title { fill: var(--text); font-weight: 600; font-size: 13px }</style>",
        1,
    )


class _Axis:
    """Places values on [0, 1], on a logarithmic scale when they span decades."""

    def __init__(self, values: np.ndarray, log: bool | None = None) -> None:
        low, high = float(values.min()), float(values.max())
        self.log = low > 0 and high / low > 20 if log is None else log
        self._to = np.log10 if self.log else float
        self._low, self._high = float(self._to(low)), float(self._to(high))
        if self._high <= self._low:
            self._low, self._high = self._low - 0.5, self._low + 0.5

    def place(self, value: float) -> float:
        return (float(self._to(value)) - self._low) / (self._high - self._low)

    def ticks(self) -> list[tuple[float, float]]:
        if not self.log:
            return [(t, self.place(t)) for t in _round_steps(self._low, self._high, 5)]
        first, last = int(np.ceil(self._low)), int(np.floor(self._high))
        return [
            (tick, self.place(tick))
            for power in range(first - 1, last + 1)
            for tick in ((10.0**power, 3 * 10.0**power) if last - first < 3 else (10.0**power,))
            if -1e-9 <= self.place(tick) <= 1
        ]


def _round_steps(low: float, high: float, about: int) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    raw = (high - low) / about
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    first = int(np.ceil(low / step - 1e-9))
    return [k * step for k in range(first, int(np.floor(high / step + 1e-9)) + 1)]


def _across(share: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * share


def _up(share: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * share


def _grid(
    horizontal: Sequence[tuple[float, float]], vertical: Sequence[tuple[float, float]]
) -> list[str]:
    """Draw lines and labels at ticks, each (value, place in [0, 1])."""
    body = [f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="var(--dim)"/>']
    for value, place in horizontal:
        at = _across(place)
        body.append(f'<path d="M{at:.1f} {_TOP}V{_BOTTOM}" stroke="var(--line)"/>')
        body.append(_text(at, _BOTTOM + 16, f"{value:.4g}", "middle"))
    for value, place in vertical:
        at = _up(place)
        body.append(f'<path d="M{_LEFT} {at:.1f}H{_RIGHT}" stroke="var(--line)"/>')
        body.append(_text(_LEFT - 6, at + 4, f"{value:.4g}", "end"))
    return body


def _names(horizontal: str, vertical: str) -> list[str]:
    return [_text((_LEFT + _RIGHT) / 2, _HEIGHT - 8, horizontal, "middle"), _side(vertical)]


def _side(text: str) -> str:
    middle = (_TOP + _BOTTOM) / 2
    return (
        f'<text x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">'
        f"{html.escape(text)}</text>"
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = "") -> str:
    style = f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{html.escape(text)}</text>'
