"""Cameras at their rates through a stream: how long a frame takes to its result, what is dropped.

    python bench/cameras.py

Random weights (time does not depend on them), frames of 512 x 512 pixels, every processor core.
Answers are checked first: each result of a stream is to the bit what `predict` says of its frame,
and every frame submitted was delivered or counted as dropped. Then the stream's throughput is
measured with a source that waits for it, and 1, 2 and 4 cameras send frames at shares of that rate,
to a queue that drops the oldest frame when it is full: below the throughput, where none should be
dropped, and beyond it, where the queue has to choose. Latency is from submitting to the result.

Writes bench/results/stream.json, from which bench/tables.py makes the table of the README.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from models import MODELS, make, quantise
from race import WrongAnswer, calibration_images, frames
from record import commit

import adfast
from adfast.benchmark import machine
from adfast.files import atomic_write
from adfast.stream_benchmark import measure_stream

RESULTS = Path(__file__).parent / "results" / "stream.json"
TITLES = ("GTrans-R34", "SAAE", "ADTR")
CAPACITY = 4
# Numbers of cameras, and the shares of the throughput that they send together.
WITHIN = ((1, 2, 4), (0.5, 0.8))
BEYOND = (4, 1.5)
# Of a check: frames that differ, the cameras that send each of them, how often.
CHECKED, SENDERS, ROUNDS = 3, 2, 2


def check(engine: Any, images: list[np.ndarray]) -> None:
    """Compare a stream's results with `predict`, where all frames are kept and where some are not.

    Raises:
        WrongAnswer: a result differs in a bit, or a frame is unaccounted for.
    """
    expected = [engine.predict(image) for image in images]
    for policy in ("block", "drop_oldest"):
        stream = engine.stream(capacity=2, policy=policy)

        def camera(stream: Any = stream) -> None:
            for number in range(ROUNDS * len(images)):
                stream.submit(images[number % len(images)], id=number % len(images))

        def send(stream: Any = stream, camera: Any = camera) -> None:
            threads = [threading.Thread(target=camera) for _ in range(SENDERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            stream.close()

        sender = threading.Thread(target=send)
        sender.start()
        results = list(stream)
        sender.join()
        for got in results:
            wanted = expected[got.id]
            if got.error or not (
                got.result.score == wanted.score and np.array_equal(got.result.map, wanted.map)
            ):
                raise WrongAnswer(
                    f"{policy}: the stream's result of frame {got.id} is not that of predict"
                    + (f": {got.error}" if got.error else "")
                )
        sent = SENDERS * ROUNDS * len(images)
        account(stream.counters, sent, len(results))
        if policy == "block" and len(results) != sent:
            raise WrongAnswer(f"block: {len(results)} of {sent} frames have a result")


def account(counters: dict[str, Any], submitted: int, delivered: int) -> int:
    """Return how many frames were dropped.

    Raises:
        WrongAnswer: they and the delivered ones are not all that were submitted.
    """
    dropped = sum(counters[name] for name in ("dropped_oldest", "dropped_newest", "expired"))
    if not counters["submitted"] == submitted == delivered + dropped:
        raise WrongAnswer(
            f"{submitted} frames were submitted, {counters['submitted']} counted; "
            f"{delivered} delivered and {dropped} dropped do not add up to them: {counters}"
        )
    return dropped


def measure(engine: Any, image: np.ndarray, seconds: float) -> dict[str, Any]:
    """Measure the throughput, then cameras at shares of it; see the top of this file."""
    full = measure_stream(
        engine, image, policy="block", capacity=CAPACITY, seconds=seconds, warmup=5
    )
    throughput = full["frames_per_second"]
    runs = []
    within = [(cameras, load) for load in WITHIN[1] for cameras in WITHIN[0]]
    for cameras, load in [*within, BEYOND]:
        found = measure_stream(
            engine,
            image,
            cameras=cameras,
            fps=load * throughput / cameras,
            policy="drop_oldest",
            capacity=CAPACITY,
            seconds=seconds,
        )
        counters, latency = found["counters"], found["latency_ms"]
        delivered = counters["completed"]
        dropped = account(counters, counters["submitted"], delivered)
        runs.append(
            {
                "cameras": cameras,
                "load": load,
                "fps": found["protocol"]["fps"],
                "submitted": counters["submitted"],
                "delivered": delivered,
                "dropped": dropped,
                "frames_per_second": found["frames_per_second"],
                "latency_ms": latency
                and {
                    "median": latency["p50"],
                    "p90": latency["p90"],
                    "p99": latency["p99"],
                    "max": latency["max"],
                },
            }
        )
        print(f"  {told(runs[-1])}", flush=True)
    protocol = full["protocol"]
    return {
        "precision": protocol["precision"],
        "threads": protocol["threads"],
        "frame": protocol["frame"],
        "capacity": CAPACITY,
        "policy": "drop_oldest",
        "throughput": throughput,
        "runs": runs,
    }


def told(run: dict[str, Any]) -> str:
    """Say a run in a line."""
    times = ", ".join(
        f"{name} {ms:.1f}" for name, ms in (run["latency_ms"] or {}).items() if ms is not None
    )
    return (
        f"{run['cameras']} camera(s) of {run['fps']:.1f} a second ({100 * run['load']:.0f} %): "
        f"{run['frames_per_second']:.1f} results a second, {run['dropped']} of "
        f"{run['submitted']} dropped; ms {times}"
    )


def measure_model(title: str, precision: str, seconds: float) -> dict[str, Any]:
    """Make a model's plan, check its stream and measure it."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        _, _, plan, compiled = make(title, Path(scratch))
        if precision == "int8":
            quantise(plan, compiled, frames(calibration_images(title)))
        engine = adfast.load(plan, device="cpu", precision=precision)
    images = frames(CHECKED)
    check(engine, images)
    print(f"{title}, {precision}: answers checked", flush=True)
    return {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "load_average_before": load,
        **measure(engine, images[0], seconds),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", choices=list(MODELS), default=list(TITLES), metavar="MODEL"
    )
    parser.add_argument("--precision", choices=("f32", "bf16", "int8"), default="int8")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run (default 30)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    report = {
        "command": "python bench/cameras.py",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "seconds": args.seconds,
        "models": {t: measure_model(t, args.precision, args.seconds) for t in args.models},
    }
    with atomic_write(args.out, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
