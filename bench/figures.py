"""What the benchmark makes of its times: summaries, ratios, targets, a chart. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Precisions of the peers that an engine of this precision has to beat.
OPPONENTS = {"f32": ("f32",), "bf16": ("f32", "bf16"), "int8": ("f32", "bf16", "int8")}
Times = Mapping[str, Sequence[float]]  # contestant: milliseconds, one for each round


def precision_of(name: str) -> str:
    """Return the precision that ends a contestant's name, "OpenVINO bf16"."""
    return name.split()[-1]


def summary(samples: Sequence[float]) -> dict[str, float | None]:
    """Summarize times; a percentile is None when not even one sample lies beyond it.

    `spread` is the distance of the quartiles as a share of the median.
    """
    values = np.asarray(samples, float)
    low, middle, high = (float(np.percentile(values, q)) for q in (25, 50, 75))
    found: dict[str, float | None] = {"min_ms": float(values.min()), "median_ms": middle}
    for percentile in (90, 99):
        seen = values.size * (100 - percentile) / 100 >= 1
        # An observed value, not an interpolated one.
        observed = float(np.percentile(values, percentile, method="higher")) if seen else None
        found[f"p{percentile}_ms"] = observed
    return found | {"spread": (high - low) / middle, "samples": values.size}


def disturbances(report: dict) -> list[str]:
    """Say what shows that other work ran beside a race: its load, or how the times scatter.

    Another tenant of a shared processor is in no load average, but in how far apart the quartiles
    are: on a quiet machine a few per cent of the median.
    """
    load = max(entry.get("load_average_before", 0) for entry in report["models"].values())
    spreads = [
        times["spread"]
        for entry in report["models"].values()
        for found in entry.get("batch1", {}).get("times", {}).values()
        for times in found.values()
        if "spread" in times
    ]
    reasons = []
    # The benchmark itself leaves a load of about the cores behind, from one model to the next.
    if load > report["machine"]["cores"] + 1:
        reasons.append(f"load {load:.1f}")
    if spreads and np.median(spreads) > 0.15:
        reasons.append(f"quartiles {100 * np.median(spreads):.0f} % of the median apart")
    return reasons


def ratio(
    theirs: Sequence[float], ours: Sequence[float], resamples: int = 2000
) -> dict[str, object]:
    """Return how many times faster we are: the median of the rounds' ratios and its interval.

    Times of one round stand next to each other in time, so that a machine that slows down slows
    down both. The interval (95 %) is the bootstrap's: rounds drawn again with replacement. Fewer
    than five rounds have none.
    """
    per_round = np.asarray(theirs, float) / np.asarray(ours, float)
    interval = None
    if per_round.size >= 5:
        drawn = np.random.default_rng(0).integers(0, per_round.size, (resamples, per_round.size))
        medians = np.median(per_round[drawn], axis=1)
        interval = [float(q) for q in np.percentile(medians, [2.5, 97.5])]
    return {"ratio": float(np.median(per_round)), "interval": interval}


def comparison(ours: Sequence[float], peers: Times, precision: str) -> dict[str, object] | None:
    """Compare with the fastest peer that an engine of `precision` has to beat; None without one."""
    eligible = [name for name in peers if precision_of(name) in OPPONENTS[precision]]
    if not eligible:
        return None
    best = min(eligible, key=lambda name: float(np.median(peers[name])))
    return {"best_peer": best, **ratio(peers[best], ours)}


def comparisons(end_to_end: Times, network: Times) -> dict[str, dict[str, object]]:
    """Compare the engine at each of its precisions, under both protocols.

    Args:
        end_to_end: times of all contestants from the uint8 frame to the full-size map.
        network: times of the peers' networks alone.
    """
    peers = {name: t for name, t in end_to_end.items() if not name.startswith("adfast")}
    return {
        precision_of(name): {
            "end_to_end": comparison(times, peers, precision_of(name)),
            "network": comparison(times, network, precision_of(name)),
        }
        for name, times in end_to_end.items()
        if name.startswith("adfast")
    }


def ceiling_share(gflop: float, milliseconds: float, rates: Mapping[str, float], precision: str):
    """Return which share of the machine's rate a network reaches, or None without a rate.

    A bf16 engine may compute in f32 where that is faster; it is measured against the faster.
    """
    allowed = [rates[p] for p in OPPONENTS[precision] if rates.get(p)]
    return gflop / (milliseconds * 1e-3) / max(allowed) if allowed else None


# The targets: what is asked of which model and precision.
ROWS = ("GTrans-R34", "GTrans-WR50", "ADTR", "InTra", "SAAE", "HaloAE")
_FRAMES = {
    "GTrans-R34": {"bf16": 120, "int8": 220},
    "GTrans-WR50": {"bf16": 40, "int8": 65},
}
_CEILING = {"SAAE": 0.6, "InTra": 0.6, "HaloAE": 0.6, "GTrans-R34": 0.5, "GTrans-WR50": 0.5}
_FLAT_KB = 256


@dataclass(frozen=True)
class Case:
    """One figure of a target: of what, as text ("–": not measured), and "met", "not met" or ""."""

    name: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Target:
    """A target and the cases that it is asked of."""

    text: str
    cases: list[Case]


def targets(report: Mapping) -> list[Target]:
    """Lay the targets beside what one machine's report holds."""
    models = report["models"]
    found = [
        Target(
            f"{precision}, batch 1, frame to full-size map: {asked} faster than the best peer's "
            "network alone",
            [_latency(models, title, precision) for title in ROWS],
        )
        for precision, asked in (("bf16", "1.5x (ADTR 2x)"), ("int8", "1.4x"))
    ]
    found += [
        Target(
            f"Frames per second, {precision}",
            [_frames(models, title, precision) for title in _FRAMES],
        )
        for precision in ("bf16", "int8")
    ]
    shares = {t: _at(models, t, "engine", "bf16", "ceiling_share") for t in ROWS}
    around = {t: _at(models, t, "engine", "bf16", "pre_post_share") for t in ROWS}
    found += [
        Target(
            "bf16: 60 % of the ceiling, GTrans 50 %",
            [Case(t, _percent(shares[t]), _verdict(shares[t], _CEILING[t])) for t in _CEILING],
        ),
        Target(
            "Pre- and post-processing of a frame of 1 MP under 10 %, bf16",
            [Case(t, _percent(around[t]), _verdict(around[t], 0.1, below=True)) for t in ROWS],
        ),
        Target("p99 beside a busy core under 3x the quiet median", _tails(report)),
        Target("Resident memory flat over 10,000 frames", [_flat(report.get("endurance"))]),
    ]
    load = _at(models, "GTrans-WR50", "engine", "bf16", "load_ms")
    text = "–" if load is None else f"{load:.0f} ms"
    loads = Case("GTrans-WR50", text, _verdict(load, 1000, below=True))
    return [*found, Target("Loads in under 1 s from a warm file cache, bf16", [loads])]


@dataclass(frozen=True)
class Bound:
    """How far a ratio is from what the machine's own rate would allow.

    `ratio` is to the best peer's network alone; `at_ceiling` is what it would be if every operation
    of the network, none of them spared, ran at the best rate that the machine showed; above 1,
    `share` tells that operations were spared.
    """

    title: str
    precision: str
    ms: float
    peer: str
    peer_ms: float
    ratio: float
    at_ceiling: float
    share: float
    asked: float


def bounds(report: Mapping) -> list[Bound]:
    """Lay the ratios of one machine's report beside what its ceiling allows."""
    models, found = report["models"], []
    for title in ROWS:
        for precision in ("bf16", "int8"):
            ratio = _at(models, title, "batch1", "ratios", precision, "network")
            share = _at(models, title, "engine", precision, "ceiling_share")
            if ratio is None or not share:
                continue
            times, peer = models[title]["batch1"]["times"], ratio["best_peer"]
            ms = times[f"adfast {precision}"]["end_to_end"]["median_ms"]
            peer_ms = times[peer]["network"]["median_ms"]
            # `share` is of the time that the engine was measured with.
            at_ceiling = ratio["ratio"] / share
            asked = _asked(title, precision)
            found.append(
                Bound(title, precision, ms, peer, peer_ms, ratio["ratio"], at_ceiling, share, asked)
            )
    return found


def _asked(title: str, precision: str) -> float:
    return 2.0 if (title, precision) == ("ADTR", "bf16") else {"bf16": 1.5, "int8": 1.4}[precision]


def _latency(models: Mapping, title: str, precision: str) -> Case:
    asked = _asked(title, precision)
    found = _at(models, title, "batch1", "ratios", precision, "network")
    if found is None:
        return Case(title, "–", "")
    return Case(title, f"{found['ratio']:.2f}x", _verdict(found["ratio"], asked))


def _frames(models: Mapping, title: str, precision: str) -> Case:
    """Take the better of batch 1 and batch 8."""
    asked = _FRAMES[title][precision]
    rates = [
        1e3 * batch / times["median_ms"]
        for batch in (1, 8)
        if (
            times := _at(
                models, title, f"batch{batch}", "times", f"adfast {precision}", "end_to_end"
            )
        )
    ]
    text = f"{max(rates):.0f}" if rates else "–"
    return Case(f"{title} (over {asked})", text, _verdict(max(rates, default=None), asked))


def _tails(report: Mapping) -> list[Case]:
    cases = []
    for title, by_name in report.get("busy", {}).items():
        for name in (n for n in by_name if n.startswith("adfast")):
            tail = by_name[name]["p99_over_quiet_median"]
            text = "–" if tail is None else f"{tail:.1f}x"
            case = Case(f"{title} {precision_of(name)}", text, _verdict(tail, 3, below=True))
            cases.append(case)
    return cases or [Case("all", "–", "")]


def _flat(endurance: Mapping | None) -> Case:
    if endurance is None:
        return Case("all", "–", "")
    growth, count = endurance["resident_growth_kb"], endurance["frames"]
    verdict = _verdict(growth, _FLAT_KB, below=True) if count >= 10_000 else ""
    return Case(f"{count} frames", f"{growth:+d} KB", verdict)


def verdict(target: Target) -> str:
    """Say in a few words how much of a target is met."""
    known = [case for case in target.cases if case.verdict]
    met = sum(case.verdict == "met" for case in known)
    if not known:
        return "not measured"
    said = f"{met} of {len(known)} met" if len(known) > 1 else known[0].verdict
    missing = len(target.cases) - len(known)
    return f"{said}, {missing} not measured" if missing else said


def _at(place, *keys):
    for key in keys:
        if place is None:
            return None
        place = place.get(key)
    return place


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _verdict(value: float | None, asked: float, below: bool = False) -> str:
    if value is None:
        return ""
    return "met" if (value < asked if below else value >= asked) else "not met"
