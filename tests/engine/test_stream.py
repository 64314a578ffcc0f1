"""Streams, counters, metrics and the log from Python."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time

import numpy as np
import pytest

import adfast

RANDOM = np.random.default_rng(6)
FRAMES = [RANDOM.integers(0, 256, (30 + i, 40, 3), dtype=np.uint8) for i in range(12)]
OUTCOMES = ("completed", "failed", "dropped_oldest", "dropped_newest", "rejected", "expired")
OUTCOMES += ("discarded", "queued", "working")


@pytest.fixture
def engine(tiny_plan):
    return adfast.load(tiny_plan, device="cpu")


def accounted(stream: adfast.Stream) -> bool:
    counters = stream.counters
    return sum(counters[name] for name in OUTCOMES) == counters["submitted"]


def test_results_come_in_order_with_the_engines_bits(engine):
    with engine.stream(capacity=3) as stream:
        results = []
        for number, frame in enumerate(FRAMES):
            copy = frame.copy()
            assert stream.submit(copy, id=100 + number, timestamp=number) == number
            copy[:] = 0  # a camera takes its buffer back
            results.append(stream.poll())
    for number, (frame, got) in enumerate(zip(FRAMES, results, strict=True)):
        expected = engine.predict(frame)
        assert (got.ticket, got.id, got.timestamp) == (number, 100 + number, number)
        assert got.error == "" and got.dropped_before == 0
        assert got.result.score == expected.score
        assert np.array_equal(got.result.map, expected.map)
        assert got.result.is_anomalous == expected.is_anomalous
        assert got.result.inspected == expected.inspected
        assert len(got.result.regions()) == len(expected.regions())
        assert got.total_ms >= got.queue_ms >= 0
    assert stream.counters["completed"] == len(FRAMES) and accounted(stream)
    assert stream.counters["latency_ms"]["p50"] > 0
    with pytest.raises(adfast.StreamClosed):
        stream.poll()
    with pytest.raises(adfast.StreamClosed):
        stream.submit(FRAMES[0])


def test_run_takes_a_source(engine):
    def camera():
        for number, frame in enumerate(FRAMES):
            yield adfast.Frame(frame, id=number * 2, timestamp=5, pixel_format="BGR8")

    stream = engine.stream(capacity=2, with_map=False)
    results = list(stream.run(camera()))
    assert [r.id for r in results] == [2 * i for i in range(len(FRAMES))]
    assert all(r.result.map is None and r.timestamp == 5 for r in results)
    expected = [engine.predict(frame, pixel_format="BGR8").score for frame in FRAMES]
    assert [r.result.score for r in results] == expected


def test_run_raises_what_the_source_raised(engine):
    def camera():
        yield FRAMES[0]
        raise ConnectionError("the cable is out")

    results = []
    with pytest.raises(ConnectionError, match="the cable"):
        for result in engine.stream().run(camera()):
            results.append(result)
    assert len(results) == 1


def test_run_can_be_left_early(engine):
    def endless():
        while True:
            yield FRAMES[0]

    stream = engine.stream(capacity=2)
    for result in stream.run(endless()):
        if result.ticket == 3:
            break
    assert accounted(stream)
    with pytest.raises(adfast.StreamClosed):
        stream.submit(FRAMES[0])


def test_a_callback_gets_every_result(engine):
    got = []

    def callback(result):
        got.append(result.ticket)
        if result.ticket == 2:
            raise RuntimeError("in the callback")

    reported = []
    hook, threading.excepthook = threading.excepthook, reported.append
    try:
        with engine.stream(callback=callback) as stream:
            for frame in FRAMES:
                stream.submit(frame)
            with pytest.raises(adfast.ArgumentError, match="go to its callback"):
                stream.poll()
    finally:
        threading.excepthook = hook
    assert got == list(range(len(FRAMES)))
    assert "in the callback" in str(reported[0].exc_value)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "error"])
def test_what_does_not_fit_is_dropped_and_counted(engine, policy):
    stream = engine.stream(capacity=2, policy=policy)
    rejected = 0
    for number in range(60):  # nobody polls, so that there is no room soon
        try:
            stream.submit(FRAMES[number % len(FRAMES)])
        except adfast.StreamFull as error:
            assert "queue of 2 frames is full" in str(error)
            rejected += 1
    assert accounted(stream)
    stream.close()
    results = list(stream)
    counters = stream.counters
    lost = {"drop_oldest": "dropped_oldest", "drop_newest": "dropped_newest", "error": "rejected"}
    assert counters[lost[policy]] > 0 and counters["rejected"] == rejected
    assert len(results) == counters["completed"] and accounted(stream)
    given = 60 - rejected
    assert sum(r.dropped_before + 1 for r in results) <= given


def test_a_frame_that_fails_does_not_end_the_stream(tiny_plan_with, engine, monkeypatch):
    with engine.stream() as stream:
        with pytest.raises(adfast.FrameError, match="expected .* for colour"):
            stream.submit(np.zeros((3, 3, 4), np.uint8))
        with pytest.raises(adfast.FrameError, match="does not lie in the frame"):
            stream.submit(FRAMES[0], roi=(0, 0, 1000, 5))
        stream.submit(FRAMES[0], roi=(1, 2, 20, 20), ignore=np.zeros((30, 40), bool))
        assert stream.poll().result.inspected.x >= 1
    assert stream.counters["submitted"] == 1


def test_waits_end(engine):
    stream = engine.stream()
    begun = time.monotonic()
    assert stream.poll(timeout=0.05) is None and stream.poll(timeout=0) is None
    assert time.monotonic() - begun < 5
    waiting = threading.Thread(target=lambda: pytest.raises(adfast.StreamClosed, stream.poll))
    waiting.start()
    stream.close()
    waiting.join(timeout=10)
    assert not waiting.is_alive()
    stream.close()


def test_ctrl_c_ends_a_wait(engine):
    stream = engine.stream()
    # Whoever started us in the background had it ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            stream.poll(timeout=60)
    finally:
        signal.signal(signal.SIGINT, handler)
    stream.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_told(engine):
    stream = engine.stream()
    child = os.fork()
    if child == 0:
        try:
            stream.submit(FRAMES[0])
        except adfast.AdfastError as error:
            del stream
            os._exit(0 if "before this process was forked" in str(error) else 2)
        os._exit(3)
    assert os.waitpid(child, 0)[1] == 0
    stream.close()


def test_options_are_checked(engine):
    for options, message in (
        ({"capacity": 0}, "capacity is 0, expected 1 to 4096"),
        ({"policy": "drop"}, "policy is 'drop', expected 'block'"),
        ({"deadline_ms": -1.0}, "expected 0"),
    ):
        with pytest.raises(adfast.ArgumentError, match=message):
            engine.stream(**options)


def test_counters_of_the_engine(engine):
    engine.warmup(3)
    engine.self_test()
    for frame in FRAMES:
        engine.predict(frame)
    with pytest.raises(adfast.FrameError):
        engine.predict(np.zeros((0, 3), np.uint8))
    counters = engine.counters
    assert counters["frames"] == len(FRAMES)
    above = sum(engine.predict(frame).is_anomalous for frame in FRAMES)
    assert counters["anomalous"] == above
    times = counters["latency_ms"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
    assert np.isnan(counters["drift"]["distance"]) and counters["drift"]["alarm"] is False


def test_metrics_are_prometheus_text(engine):
    stream = engine.stream()
    for frame in FRAMES:
        stream.submit(frame)
        stream.poll()
    page = engine.metrics_text(stream)
    values = {}
    for line in page.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP \w+ .+|TYPE \w+ (counter|gauge|histogram))", line)
            continue
        match = re.fullmatch(r'(\w+)\{((?:\w+="[^"]*",?)+)\} (\S+)', line)
        assert match, line
        values[match[1] + "{" + match[2] + "}"] = float(match[3])
    label = 'model="tiny",name="tiny"'
    assert values[f"adfast_frames_total{{{label}}}"] == len(FRAMES)
    assert values[f'adfast_stream_frames_total{{{label},outcome="completed"}}'] == len(FRAMES)
    for name in ("adfast_latency_seconds", "adfast_stream_latency_seconds"):
        buckets = [v for k, v in values.items() if k.startswith(name + "_bucket")]
        assert buckets == sorted(buckets) and buckets[-1] == len(FRAMES)
    stream.close()


def test_drift_is_told(tmp_path, tiny_plan, make_tiny_graph):
    from adfast.compiler.writer import Golden, plan_fields, write_plan

    engine = adfast.load(tiny_plan)
    good = [RANDOM.integers(90, 110, (40, 40), dtype=np.uint8) for _ in range(60)]
    scores = sorted(engine.predict(frame).score for frame in good)
    calibration = {
        "threshold": scores[-1] * 10,
        "images": len(scores),
        "score.quantiles": np.quantile(scores, np.linspace(0, 1, 101)).tolist(),
    }
    fields = plan_fields(model="tiny", name="tiny", resize=[18, 20], crop=[16, 16])
    path = tmp_path / "drift.plan"
    write_plan(path, make_tiny_graph(), fields, calibration, Golden(), {}, {})
    engine = adfast.load(path, precision="f32")
    lines = []
    adfast.set_log(lambda level, line: lines.append((level, line)), logging.WARNING)
    try:
        for frame in good:
            engine.predict(frame)
        drift = engine.counters["drift"]
        assert drift["distance"] < 0.2 < drift["limit"] < 1 and drift["alarm"] is False
        for frame in good * 6:  # the lamp grows old
            engine.predict(frame // 2)
        assert engine.counters["drift"]["alarm"] is True
    finally:
        adfast.set_log(None)
    assert [level for level, line in lines if "[drift]" in line] == [logging.WARNING]


def test_the_log(engine, tiny_plan, caplog):
    with caplog.at_level(logging.DEBUG, logger="line"):
        adfast.set_log(logging.getLogger("line"))
        try:
            adfast.load(tiny_plan, device="cpu")
            with engine.stream(capacity=1, policy="drop_newest") as stream:
                for _ in range(20):
                    stream.submit(FRAMES[0])
        finally:
            adfast.set_log(None)
        adfast.load(tiny_plan, device="cpu")
    said = [(r.levelno, r.getMessage()) for r in caplog.records]
    assert sum("[load] tiny on cpu" in line for _, line in said) == 1
    assert (logging.INFO, "[stream] opened, capacity 1") in said
    assert (logging.INFO, "[stream] closed") in said
    dropped = [line for level, line in said if level == logging.WARNING and "dropped" in line]
    assert len(dropped) == (1 if stream.counters["dropped_newest"] else 0)
