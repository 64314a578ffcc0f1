"""Which steps of a graph may run in int8, and how their inputs are stored then.

A step in int8 reads u8, value = scale * (u8 - zero), one scale and zero for the whole value. They
come from histograms of what the values hold on sample images, clipped by one of `RULES`: far
outliers cost more resolution than they are worth. Weights are rounded by the engine, when it loads
the plan, with a scale for every output channel. Scales and zeros are attributes of the graph's
nodes; an engine in f32 or bf16 does not look at them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adfast.compiler.graph import Graph, Node
from adfast.progress import Track, silent

BINS = 4096
# Below, a step waits for its weights, not for its arithmetic: the token groups of GTrans, the gates
# of EfficientNet.
MIN_ROWS = 64
# Products shorter than this are too quick to gain.
MIN_DEPTH = 32
#: How the range of a value is clipped: not at all, to the share of its elements that is kept, or
#: where the mean squared error is least.
RULES = ("mse", "99.99 %", "99.999 %", "99.9 %", "max")
# Groups of neighbouring steps whose drift is measured apart.
GROUPS = 12

Levels = tuple[float, int]  # scale, zero


@dataclass
class Seen:
    """What a value held: its range, and how many elements lay in each of equal parts of it."""

    low: float
    high: float
    counts: np.ndarray


def candidates(graph: Graph) -> list[Node]:
    """List the steps that may run in int8.

    Not the first convolution, which reads the image: it has few channels to sum over, and all later
    steps would see its error.
    """
    found = []
    for node in graph.nodes:
        if node.op not in ("conv2d", "linear") or node.attrs.get("groups", 1) != 1:
            continue
        x, weight = node.inputs[:2]
        if x.producer is None or x.producer.op == "frame":
            continue
        rows = math.prod(node.output.shape[2:] if node.op == "conv2d" else x.shape[:-1])
        if rows >= MIN_ROWS and math.prod(weight.shape[1:]) >= MIN_DEPTH:
            found.append(node)
    return found


def observe(
    engine: Any,
    frames: Sequence[Any],
    names: Iterable[str],
    track: Track = silent,
    pixel_format: str = "",
) -> dict[str, Seen]:
    """Make histograms of values of the graph.

    Args:
        engine: an `adfast.Engine` in f32.
        frames: images, as for `Engine.predict`.
        names: of computed values.
        track: shows the progress.
        pixel_format: as for `Engine.predict`.
    """
    ranges = {name: (math.inf, -math.inf) for name in names}
    for frame in track(frames, "ranges"):
        for name, (low, high, _) in engine._observe(
            frame, dict.fromkeys(ranges, (0, 0)), 0, pixel_format
        ).items():
            ranges[name] = (min(low, ranges[name][0]), max(high, ranges[name][1]))
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for frame in track(frames, "histograms"):
        for name, (_, _, more) in engine._observe(frame, ranges, BINS, pixel_format).items():
            counts[name] += more
    return {name: Seen(*ranges[name], counts[name]) for name in ranges}


def levels(seen: Seen, rule: str) -> Levels:
    """Choose scale and zero of a value.

    Args:
        seen: what it held.
        rule: one of `RULES`.
    """
    if rule == "max":
        return _levels(seen.low, seen.high)
    if rule != "mse":
        tail = (1 - float(rule.rstrip(" %")) / 100) / 2
        total = np.cumsum(seen.counts) / max(seen.counts.sum(), 1)
        edges = np.linspace(seen.low, seen.high, BINS + 1)
        first, last = np.searchsorted(total, tail), np.searchsorted(total, 1 - tail)
        return _levels(float(edges[first]), float(edges[min(last + 1, BINS)]))
    middle = (np.linspace(seen.low, seen.high, BINS + 1)[:-1]) + (seen.high - seen.low) / BINS / 2
    kept = np.flatnonzero(seen.counts)
    values, weight = middle[kept], seen.counts[kept]
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    shares = np.geomspace(0.05, 1, 20)
    ends = itertools.product(low * (shares if low else shares[-1:]), high * shares)
    tried = [_levels(*pair) for pair in ends]
    return min(tried, key=lambda each: float(_squares(values, each) @ weight))


def quantized(graph: Graph, chosen: Mapping[str, Levels]) -> Graph:
    """Copy a graph; the nodes named get their levels, all others run in floats."""
    copy = graph.copy()
    for node in copy.nodes:
        if "input_scale" in node.attrs:
            scale, zero = chosen.get(node.name, (0.0, 0))
            node.attrs = {**node.attrs, "input_scale": scale, "input_zero": zero}
    return copy


def calibrate(
    graph: Graph,
    engine: Any,
    frames: Sequence[Any],
    rule: str = "mse",
    track: Track = silent,
) -> Graph:
    """Quantise every step that may run in int8, with no look at what that does to the answers.

    Args:
        graph: what the plan was written from.
        engine: that plan, in f32.
        frames: images, as for `Engine.predict`.
        rule: one of `RULES`.
        track: shows the progress.
    """
    steps = candidates(graph)
    seen = observe(engine, frames, {node.inputs[0].name for node in steps}, track)
    return quantized(graph, {n.name: levels(seen[n.inputs[0].name], rule) for n in steps})


@dataclass
class Found:
    """What `search` found; `graph` is the quantised one, `evidence` is that of its gate."""

    graph: Graph
    passed: bool
    evidence: dict[str, Any]


def search(
    graph: Graph,
    seen: Mapping[str, Seen],
    drift: Callable[[Graph], float],
    gate: Callable[[Graph], tuple[bool, dict[str, Any]]],
    track: Track = silent,
) -> Found:
    """Quantise what may be, and leave in floats what the gate does not forgive.

    First the rule that drifts least with all steps in int8. Where that does not pass, neighbouring
    steps are quantised in groups, one alone, and the groups that drift most go back to floats, as
    few of them as pass.

    Args:
        graph: the graph in floats.
        seen: of the values that its candidates read.
        drift: a quantised graph to the error of its answers, from a few frames.
        gate: a quantised graph to whether it may be used, and the evidence.
        track: shows the progress.
    """
    steps = candidates(graph)
    drifts, best = {}, {}
    for rule in track(RULES, "int8: ranges by drift"):
        chosen = {node.name: levels(seen[node.inputs[0].name], rule) for node in steps}
        drifts[rule] = drift(quantized(graph, chosen))
        if drifts[rule] == min(drifts.values()):
            best = chosen
    names = list(best)
    evidence: dict[str, Any] = {
        "steps": len(steps),
        "ranges": min(drifts, key=drifts.__getitem__),
        "drift_by_ranges": drifts,
    }

    def attempt(floats: Sequence[str]) -> Found:
        made = quantized(graph, {k: v for k, v in best.items() if k not in floats})
        passed, judged = gate(made)
        return Found(made, passed, {**evidence, **judged, "steps_in_float": list(floats)})

    found = attempt([])
    if found.passed or len(names) < 2:
        return found
    groups = [list(g) for g in np.array_split(np.array(names, object), min(GROUPS, len(names)))]
    alone = [
        drift(quantized(graph, {name: best[name] for name in group}))
        for group in track(groups, "int8: drift of each part")
    ]
    order = np.argsort(alone)[::-1]
    evidence["drift_by_parts"] = [float(value) for value in alone]
    # The fewest groups whose leaving helps lie between `low`, which fails, and `high`.
    low, high = 0, len(groups)
    while high - low > 1:
        middle = (low + high) // 2
        tried = attempt([name for at in order[:middle] for name in groups[at]])
        if tried.passed:
            found, high = tried, middle
        else:
            low = middle
            found = found if found.passed else tried
    return found


def _levels(low: float, high: float) -> Levels:
    """Spread 0..255 over a range that holds 0, so that 0 is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.clip((high - low) / 255, 1e-12, 1e12))
    return scale, int(np.clip(round(-low / scale), 0, 255))


def _squares(values: np.ndarray, chosen: Levels) -> np.ndarray:
    """Squared error of each value."""
    scale, zero = chosen
    stored = np.clip(np.rint(values / scale) + zero, 0, 255)
    return (values - scale * (stored - zero)) ** 2
