"""What the benchmark makes of its times, and what the tables make of its results."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import figures  # noqa: E402
import tables  # noqa: E402


def test_a_summary_claims_no_tail_that_it_has_not_seen():
    few = figures.summary([3.0, 1.0, 2.0])
    assert (few["min_ms"], few["median_ms"], few["samples"]) == (1, 2, 3)
    assert few["p90_ms"] is None and few["p99_ms"] is None
    assert few["spread"] == pytest.approx(0.5)
    many = figures.summary(np.arange(1.0, 101.0))
    assert many["p90_ms"] in (90, 91) and many["p99_ms"] == 100
    assert figures.summary(np.arange(1.0, 100.0))["p99_ms"] is None


def test_a_disturbed_race_is_called_so_and_stands_last(monkeypatch, tmp_path):
    def report(processor, date, load, spread):
        times = {"A f32": {"network": {"median_ms": 1.0, "spread": spread}}}
        models = {"ADTR": {"load_average_before": load, "batch1": {"times": times}}}
        return {"models": models, "date": date, "machine": {"processor": processor, "cores": 2}}

    assert figures.disturbances(report("", "", 2.9, 0.1)) == []
    assert figures.disturbances(report("", "", 3.5, 0.1)) == ["load 3.5"]
    reasons = figures.disturbances(report("", "", 2.0, 0.3))
    assert reasons == ["quartiles 30 % of the median apart"]
    reports = [
        report("old", "2026-01-01", 2.0, 0.1),
        report("rough", "2026-01-03", 2.0, 0.3),
        report("new", "2026-01-02", 2.0, 0.1),
    ]
    path = tmp_path / "end_to_end.json"
    path.write_text(json.dumps({"machines": {r["date"]: r for r in reports}}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert [r["machine"]["processor"] for r in tables.machines()] == ["new", "old", "rough"]


def test_a_ratio_is_of_times_of_the_same_round():
    # The machine slows down fourfold: every round says 2, though medians would not.
    ours = [1.0, 1.0, 1.0, 4.0, 4.0, 4.0]
    found = figures.ratio([2 * t for t in ours], ours)
    assert found == {"ratio": 2.0, "interval": [2.0, 2.0]}
    low, high = figures.ratio([2.0, 3.0, 2.0, 3.0, 2.5], [1.0] * 5)["interval"]
    assert 2 <= low < 2.5 < high <= 3
    assert figures.ratio([2.0] * 4, [1.0] * 4)["interval"] is None


def test_opponents_are_peers_of_the_same_precision_or_a_higher_one():
    ours = {f"adfast {p}": [10.0, 10.0] for p in ("f32", "bf16", "int8")}
    peers = {"A f32": [11.0, 11.0], "B bf16": [20.0, 20.0], "C int8": [5.0, 5.0]}
    found = figures.comparisons(
        ours | peers, {name: [t - 1 for t in ms] for name, ms in peers.items()}
    )
    assert found["f32"]["end_to_end"]["best_peer"] == "A f32"
    assert found["bf16"]["network"] == {"best_peer": "A f32", "ratio": 1.0, "interval": None}
    assert found["int8"]["end_to_end"]["best_peer"] == "C int8"
    assert found["int8"]["end_to_end"]["ratio"] == 0.5
    only = figures.comparisons({"adfast f32": [1.0], "B bf16": [1.0]}, {"B bf16": [1.0]})
    assert only == {"f32": {"end_to_end": None, "network": None}}


def test_share_of_the_ceiling_is_of_the_fastest_allowed_precision():
    rates = {"f32": 200.0, "bf16": 100.0}
    assert figures.ceiling_share(1.0, 10.0, rates, "bf16") == pytest.approx(0.5)
    assert figures.ceiling_share(1.0, 10.0, {"f32": 100.0, "bf16": 400.0}, "f32") == 1.0
    assert figures.ceiling_share(1.0, 10.0, {}, "f32") is None


REPORT = {
    "models": {
        "GTrans-R34": {
            "batch1": {
                "ratios": {"bf16": {"network": {"ratio": 1.6, "best_peer": "A bf16"}}},
                "times": {"adfast bf16": {"end_to_end": {"median_ms": 10.0}}},
            },
            "batch8": {"times": {"adfast bf16": {"end_to_end": {"median_ms": 50.0}}}},
            "engine": {"bf16": {"ceiling_share": 0.4, "pre_post_share": 0.02, "load_ms": 80}},
        },
        "ADTR": {"batch1": {"ratios": {"bf16": {"network": {"ratio": 1.9}}}, "times": {}}},
        "InTra": {"batch8": {"skipped": "slow"}},
    },
    "busy": {"GTrans-R34": {"adfast bf16": {"p99_over_quiet_median": 2.0}, "Z f32": {}}},
    "endurance": {"frames": 10_000, "resident_growth_kb": 4},
}


def test_targets_are_met_not_met_or_not_measured():
    found = {target.text: target for target in figures.targets(REPORT)}
    latency = next(t for text, t in found.items() if text.startswith("bf16, batch 1"))
    verdicts = {case.name: case.verdict for case in latency.cases}
    assert verdicts["GTrans-R34"] == "met" and verdicts["ADTR"] == "not met"
    assert verdicts["SAAE"] == ""
    assert figures.verdict(latency) == "1 of 2 met, 4 not measured"
    frames = found["Frames per second, bf16"].cases[0]
    assert (frames.measured, frames.verdict) == ("160", "met")  # batch 8 is the better
    assert figures.verdict(found["Frames per second, int8"]) == "not measured"
    assert figures.verdict(found["Resident memory flat over 10,000 frames"]) == "met"
    tail = found["p99 beside a busy core under 3x the quiet median"]
    assert [case.name for case in tail.cases] == ["GTrans-R34 bf16"]


def bound_report(**shares) -> dict:
    """Models whose bf16 takes 10 ms, the best peer's network 20 ms, at these shares."""
    times = {
        "adfast bf16": {"end_to_end": {"median_ms": 10.0}},
        "A bf16": {"end_to_end": {"median_ms": 30.0}, "network": {"median_ms": 20.0}},
    }
    ratios = {"bf16": {"network": {"ratio": 2.0, "best_peer": "A bf16"}}}
    return {
        "models": {
            title: {
                "commit": "abc",
                "batch1": {"times": times, "ratios": ratios, "rounds": 3},
                "engine": {"bf16": {"ceiling_share": share}},
            }
            for title, share in shares.items()
        },
        "machine": {"processor": "One", "cores": 2},
        "date": "2026-01-01",
        "command": "make bench",
    }


def test_a_ceiling_bounds_the_ratio(monkeypatch):
    """Half of the machine's rate: at all of it, twice the ratio."""
    report = bound_report(SAAE=0.5, HaloAE=1.2)
    saae, halo = figures.bounds(report)
    assert (saae.title, saae.ratio, saae.at_ceiling, saae.asked) == ("SAAE", 2.0, 4.0, 1.5)
    assert halo.share > 1 and figures.bounds({"models": {"SAAE": {}}}) == []
    monkeypatch.setattr(tables, "machines", lambda: [report])
    lines = tables.ceilings().split("\n")
    assert "50 %" in lines[2] and "2.00x (met) | 4.00x | 1.5x" in lines[2]
    assert "120 %" in lines[3] and "| – |" in lines[3]  # operations were spared
    slow = bound_report(SAAE=0.9)
    slow["models"]["SAAE"]["batch1"]["ratios"]["bf16"]["network"]["ratio"] = 1.0
    monkeypatch.setattr(tables, "machines", lambda: [slow])
    assert "1.00x | 1.11x (asked is out of reach) | 1.5x" in tables.ceilings()


def test_few_frames_say_nothing_of_ten_thousand():
    report = REPORT | {"endurance": {"frames": 100, "resident_growth_kb": 0}}
    flat = next(t for t in figures.targets(report) if t.text.startswith("Resident"))
    assert flat.cases[0].measured == "+0 KB" and figures.verdict(flat) == "not measured"


def test_nothing_measured_is_no_error():
    for target in figures.targets({"models": {}}):
        assert figures.verdict(target) == "not measured"


def test_the_chart_is_a_drawing_by_itself():
    root = xml.etree.ElementTree.fromstring(tables.chart())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    used = set(re.findall(r"var\((--\w+)\)", tables.chart()))
    assert used <= set(re.findall(r"(--\w+):", tables.chart()))


def test_every_machine_has_its_own_table(monkeypatch):
    times = {
        "adfast bf16": {"end_to_end": {"median_ms": 10.0}},
        "A bf16": {"end_to_end": {"median_ms": 30.0}, "network": {"median_ms": 20.0}},
    }
    ratios = {
        "bf16": {
            "end_to_end": {"ratio": 3.0, "best_peer": "A bf16"},
            "network": {"ratio": 2.0, "best_peer": "A bf16"},
        }
    }
    batch = {"rounds": 3, "times": times, "ratios": ratios}
    reports = [
        {
            "models": {"ADTR": {"commit": "abc", "batch1": batch, "batch8": batch}},
            "machine": {"processor": name, "cores": 2},
            "date": "2026-01-01",
            "command": "make bench",
        }
        for name in ("One", "Other")
    ]
    monkeypatch.setattr(tables, "machines", lambda: reports)
    every, row = tables.contestants(), "| ADTR | 10.0 | 20.0 | 2.00x (3.00x) |"
    assert "One, 2 cores" in every and "Other, 2 cores" in every and every.count(row) == 2
    # The README has room for one of each kind.
    latest, row = tables.speed(), "| ADTR | 10.0 | 20.0, A bf16 | 2.00x (3.00x) |"
    assert "One, 2 cores" in latest and "Other" not in latest and latest.count(row) == 1
    assert tables.batch().count("| ADTR | 800.0 | 266.7 |") == 2
