"""The benchmark of streams: what it checks before it measures, and the table of its results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import adfast

pytest.importorskip("torch")

BENCH = Path(__file__).parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import cameras  # noqa: E402
import tables  # noqa: E402

RUN = {"load": 0.5, "fps": 10.0, "submitted": 600, "delivered": 600, "dropped": 0}
RUN |= {"frames_per_second": 20.0, "cameras": 1}
RUN |= {"latency_ms": {"median": 12.34, "p90": 20.0, "p99": None, "max": 30.0}}


@pytest.fixture
def engine(tiny_plan):
    return adfast.load(tiny_plan, device="cpu", precision="f32")


@pytest.fixture
def images():
    return list(np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8))


def test_a_stream_that_answers_as_predict_passes(engine, images):
    cameras.check(engine, images)


@pytest.mark.parametrize("what", ["score", "map"])
def test_one_bit_is_enough_to_refuse(engine, images, what):
    class Other:
        """An engine whose stream differs from its predict in the last bit of one frame's answer."""

        stream = staticmethod(engine.stream)

        def predict(self, image):
            found = engine.predict(image)
            if image is images[1]:
                changed = np.nextafter(getattr(found, what), np.float32(np.inf), dtype=np.float32)
                return SimpleNamespace(**{"score": found.score, "map": found.map, what: changed})
            return found

    with pytest.raises(cameras.WrongAnswer, match="frame 1 is not that of predict"):
        cameras.check(Other(), images)


def test_every_frame_is_accounted_for():
    counters = dict.fromkeys(("dropped_oldest", "dropped_newest", "expired"), 0)
    counters |= {"submitted": 7, "dropped_oldest": 2}
    assert cameras.account(counters, 7, 5) == 2
    for submitted, delivered in ((8, 6), (7, 4), (7, 6)):
        with pytest.raises(cameras.WrongAnswer, match="do not add up|counted"):
            cameras.account(counters, submitted, delivered)


def test_cameras_within_the_throughput_and_beyond(engine, images):
    found = cameras.measure(engine, images[0], seconds=0.3)
    asked = [(cameras, load) for load in (0.5, 0.8) for cameras in (1, 2, 4)] + [(4, 1.5)]
    assert [(run["cameras"], run["load"]) for run in found["runs"]] == asked
    assert found["throughput"] > 0 and found["precision"] == "f32"
    for run in found["runs"]:
        assert run["submitted"] == run["delivered"] + run["dropped"] > 0
        together = run["load"] * found["throughput"]
        assert run["cameras"] * run["fps"] == pytest.approx(together)
        assert run["latency_ms"]["max"] >= run["latency_ms"]["median"] > 0


def test_a_whole_run_makes_a_report_and_a_table(tmp_path, tiny_plan, monkeypatch):
    monkeypatch.setattr(cameras, "make", lambda title, folder: (None, None, tiny_plan, None))
    words = ["--models", "ADTR", "--seconds", "0.1", "--precision", "f32"]
    assert cameras.main([*words, "--out", str(tmp_path / "stream.json")]) == 0
    report = json.loads((tmp_path / "stream.json").read_text())
    assert {"command", "commit", "date", "machine"} <= report.keys()
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    text = tables.stream()
    assert text.count("\n| ADTR f32 |") == 3 and "512x512 pixels" in text
    assert "`python bench/cameras.py` ([bench/results/stream.json]" in text


def test_the_table_of_a_report(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.stream() == "Not measured yet."
    beyond = {**RUN, "load": 1.5, "cameras": 4, "dropped": 200, "latency_ms": None}
    entry = {"precision": "int8", "throughput": 40.0, "capacity": 4, "frame": [512, 512, 3]}
    entry |= {"load_average_before": 9.0, "runs": [RUN, {**RUN, "cameras": 4}, beyond]}
    report = {"command": "python bench/cameras.py", "commit": "abc", "date": "2026-01-01"}
    report |= {"machine": {"processor": "P", "cores": 2}, "seconds": 30.0}
    (tmp_path / "stream.json").write_text(json.dumps(report | {"models": {"SAAE": entry}}))
    lines = tables.stream().splitlines()
    assert lines[0] == "| Model | Frames a second | 1 camera | 4 cameras | Dropped |"
    assert lines[2] == (
        "| SAAE int8 | 20.0 (50 %) | 12.3 / 20.0 / – | 12.3 / 20.0 / – | 0 of 1,200 |"
    )
    assert lines[3] == "| SAAE int8 | 60.0 (150 %) | – | – | 200 of 600 |"
    assert lines[-1].endswith("busy with other work (load 9.0): figures are rough.")
