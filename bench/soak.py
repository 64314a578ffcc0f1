"""Weeks on the line in half an hour: cameras, streams, plans that come and go, and faults.

    python bench/soak.py [--minutes 30] [--cameras 3] [--seed 0] [--out FILE]
    python bench/soak.py --judge FILE      # a report's samples again, by this version's limits

Producers submit frames of random sizes and formats to streams of every policy at random rates;
frames that cannot be are mixed in, callbacks raise, streams are closed while producers wait, plans
are loaded and dropped, broken plans are refused. A report in JSON, and its summary on the
screen, say how many frames went where, whether every one is accounted for, how the resident memory
grew after warm-up (a least-squares slope of MB an hour and its 95 % interval) and how the latencies
went. The exit status is 1 if a frame is missing, an error was not one of those provoked, nothing
moved for a minute, or, on a run of ten minutes or more, the memory grows by 1 MB an hour or more. A
shorter one cannot tell growth from warming up, which takes the first half.

The memory is judged at rest: three times a minute all cameras stop between two streams, every
engine is dropped, and what the allocator holds free is given back to the system. What is left then
is what leaked, and what is kept for the most threads and streams that were there at once, which
grows more and more slowly; that of the busy process goes up and down by a megabyte with the frames
in its queues, and is reported beside it. The allocator is held to one arena (MALLOC_ARENA_MAX), as
it gives nothing back from the end of another.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import functools
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import adfast
from adfast.benchmark import machine
from adfast.files import atomic_write
from adfast.progress import phases

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent))
from conftest import tiny_graph  # the engine's tests' plan
from record import commit

from adfast.compiler.writer import Golden, plan_fields, write_plan

POLICIES = ("block", "drop_oldest", "drop_newest", "error")
OUTCOMES = ("completed", "failed", "dropped_oldest", "dropped_newest", "rejected", "expired")
OUTCOMES += ("discarded", "queued", "working")
SAMPLE_EVERY = 5.0  # seconds between looks at the busy process
REST_EVERY = 20.0  # seconds between rests
WARM_UP = 0.5  # share of the run that is not judged
STALL = 60.0
PIXELS = 3 * 200 * 256 * 2  # random bytes to cut a camera's frames from
SLOPE_LIMIT = 1.0  # MB an hour
ARENAS = {"MALLOC_ARENA_MAX": "1"}


class Rest:
    """Where workers wait between two pieces of work, holding nothing, while another looks."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.wanted = False
        self.workers = self.waiting = 0

    def join(self) -> None:
        with self.changed:
            self.workers += 1

    def leave(self) -> None:
        with self.changed:
            self.workers -= 1
            self.changed.notify_all()

    def point(self) -> None:
        """Wait here while a rest is wanted."""
        with self.changed:
            self.waiting += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self.wanted)
            self.waiting -= 1

    def begin(self, timeout: float) -> bool:
        """Wait until all workers wait; whether they did in time."""
        with self.changed:
            self.wanted = True
            return self.changed.wait_for(lambda: self.waiting == self.workers, timeout)

    def end(self) -> None:
        with self.changed:
            self.wanted = False
            self.changed.notify_all()


class Soak:
    """What all threads share: the time, the counts, and what went wrong."""

    def __init__(self, plans: list[Path], seconds: float, seed: int) -> None:
        self.plans, self.seed = plans, seed
        self.commit = commit()  # of what runs, whatever is edited meanwhile
        self.begun = time.monotonic()
        self.end = self.begun + seconds
        self.lock = threading.Lock()
        self.totals: dict[str, int] = {}
        self.problems: list[str] = []
        self.moved = time.monotonic()
        self.latencies: list[float] = []
        self.rest = Rest()

    def over(self) -> bool:
        return time.monotonic() > self.end or bool(self.problems)

    def count(self, name: str, by: int = 1) -> None:
        with self.lock:
            self.totals[name] = self.totals.get(name, 0) + by

    def problem(self, text: str) -> None:
        with self.lock:
            self.problems.append(text)

    def result(self, milliseconds: float) -> None:
        with self.lock:
            self.moved = time.monotonic()
            self.latencies.append(milliseconds)

    def worker(self, work, *args) -> threading.Thread:
        """Start a thread that does pieces of work, with a rest between them where one is wanted."""

        @functools.wraps(work)  # a problem is told by its name
        def pieces() -> None:
            try:
                while not self.over():
                    self.rest.point()
                    work(*args)
            finally:
                self.rest.leave()

        self.rest.join()
        return self.guarded(pieces)

    def guarded(self, work, *args) -> threading.Thread:
        def run() -> None:
            try:
                work(*args)
            except Exception as error:
                self.problem(f"{work.__name__}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def frame_of(rng: random.Random, random_pixels: np.ndarray) -> tuple[Any, str]:
    """Cut a frame of a random format and size out of random bytes, with gaps between its rows."""
    pixel_format = rng.choice(adfast.PIXEL_FORMATS)
    height, width = rng.randint(1, 200), rng.randint(1, 200)
    deep = pixel_format in ("Mono10", "Mono12", "Mono16")
    colour = pixel_format in ("RGB8", "BGR8")
    source = random_pixels.view(np.uint16) if deep else random_pixels
    if colour:
        return source[: 3 * height * 256].reshape(height, 256, 3)[:, :width], pixel_format
    return source[: height * 256].reshape(height, 256)[:, :width], pixel_format


def one_stream(soak: Soak, rng: random.Random, pixels: np.ndarray) -> None:
    """Open a stream, feed it for a while, and close it in one way or another."""
    engine = adfast.load(rng.choice(soak.plans), device="cpu", threads=rng.choice([1, 2]))
    policy = rng.choice(POLICIES)
    with_callback = rng.random() < 0.5

    def callback(result: adfast.StreamResult) -> None:
        soak.result(result.total_ms)
        if rng.random() < 0.01:
            soak.count("callback errors")
            raise RuntimeError("provoked")

    stream = engine.stream(
        capacity=rng.randint(1, 8),
        policy=policy,
        deadline_ms=rng.choice([None, 5.0, 50.0]),
        with_map=rng.random() < 0.7,
        callback=callback if with_callback else None,
    )
    feeders = [
        soak.guarded(feed, soak, stream, rng.randint(0, 2**30), pixels)
        for _ in range(rng.randint(1, 3))
    ]
    until = min(soak.end, time.monotonic() + rng.uniform(1, 6))
    while time.monotonic() < until and not soak.over() and not soak.rest.wanted:
        if with_callback:
            time.sleep(0.05)
            continue
        result = stream.poll(timeout=0.1)
        if result is not None:
            soak.result(result.total_ms)
            if result.error:
                soak.problem(f"a frame failed: {result.error}")
    # While producers may wait for room.
    stream.close(drain=rng.random() < 0.5)
    for feeder in feeders:
        feeder.join(timeout=STALL)
        if feeder.is_alive():
            soak.problem("a producer did not end when its stream was closed")
    if not with_callback:
        for result in stream:
            soak.result(result.total_ms)
    counters = stream.counters
    if sum(counters[name] for name in OUTCOMES) != counters["submitted"]:
        soak.problem(f"frames are missing: {counters}")
    for name in ("submitted", *OUTCOMES):
        soak.count(name, counters[name])
    soak.count("streams")


def feed(soak: Soak, stream: adfast.Stream, seed: int, pixels: np.ndarray) -> None:
    rng = random.Random(seed)
    while not soak.over():
        image, pixel_format = frame_of(rng, pixels)
        try:
            if rng.random() < 0.02:
                fault = rng.choice([image[:0], np.zeros((3, 4, 5), np.uint8), "no such file.png"])
                try:
                    stream.submit(fault)
                except adfast.FrameError:
                    soak.count("bad frames refused")
                else:
                    soak.problem(f"a bad frame was taken: {fault!r}")
            roi = (0, 0, *image.shape[1::-1]) if rng.random() < 0.1 else None
            ignore = np.zeros(image.shape[:2], bool) if rng.random() < 0.1 else None
            stream.submit(image, pixel_format=pixel_format, roi=roi, ignore=ignore)
        except adfast.StreamFull:
            pass
        except adfast.StreamClosed:
            return
        time.sleep(rng.choice([0, 0, 0.001, 0.01]))


def one_plan(soak: Soak, rng: random.Random, folder: Path) -> None:
    """Load, inspect and drop a plan; damage a copy of it, which must be refused."""
    path = rng.choice(soak.plans)
    engine = adfast.load(path, device="cpu", precision=rng.choice(["f32", None]))
    engine.predict(np.zeros((50, 60, 3), np.uint8))
    engine.metrics_text()
    soak.count("plans loaded")
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    broken = folder / "broken.plan"
    broken.write_bytes(data)
    try:
        adfast.load(broken, device="cpu")
    except adfast.PlanError:
        soak.count("broken plans refused")
    else:
        if bytes(data) != path.read_bytes():
            soak.problem("a damaged plan was loaded")
    time.sleep(0.2)


def resident() -> float:
    """Megabytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def slope(times: np.ndarray, values: np.ndarray, alike: int) -> tuple[float, float, float]:
    """Fit a line: its slope an hour, and the ends of the 95 % interval.

    Of `alike` neighbouring values one counts, as they are not independent.
    """
    if len(times) < 4:
        return 0.0, -np.inf, np.inf
    centred = times - times.mean()
    a = float((centred * values).sum() / (centred**2).sum())
    rest = values - values.mean() - a * centred
    error = float(np.sqrt((rest**2).sum() / (len(times) - 2) / (centred**2).sum()))
    error *= np.sqrt(alike)
    return a * 3600, (a - 2 * error) * 3600, (a + 2 * error) * 3600


def write_plans(folder: Path) -> list[Path]:
    plans = []
    for name, tile in (("whole", ()), ("tiled", (64, 80))):
        fields = plan_fields(
            model="tiny", name=name, resize=[18, 20], crop=[16, 16], tile=tile, overlap=8
        )
        plans.append(folder / f"{name}.plan")
        write_plan(plans[-1], tiny_graph(), fields, {"threshold": 0.05}, Golden(), {}, {})
    return plans


def main() -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the report; without, it is printed only")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="a report, which is rewritten")
    args = parser.parse_args()
    if args.judge is not None:
        return judge(args.judge)
    if "MALLOC_ARENA_MAX" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ARENAS})
    threading.excepthook = lambda details: None  # the callbacks' own errors
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        soak = Soak(write_plans(folder), args.minutes * 60, args.seed)
        threads = []
        for number in range(args.cameras):
            rng = random.Random(args.seed * 1000 + number)
            pixels = np.random.default_rng(number).integers(0, 256, PIXELS, dtype=np.uint8)
            threads.append(soak.worker(one_stream, soak, rng, pixels))
        threads.append(soak.worker(one_plan, soak, random.Random(args.seed + 7), folder))
        samples, rests = watch(soak)
        for thread in threads:
            thread.join(timeout=STALL)
            if thread.is_alive():
                soak.problem("a thread did not end: deadlock")
    report = summarise(soak, samples, rests, args)
    if args.out is not None:
        with atomic_write(args.out, "w") as file:
            json.dump(report, file, indent=1)
            file.write("\n")
    for name, value in report["totals"].items():
        print(f"{name:<22} {value}")
    for name in ("at_rest", "busy"):
        memory = report["memory"][name]
        low, high = memory["interval"]
        told = f"{memory['slope_mb_per_hour']:+.2f} an hour ({low:+.2f} to {high:+.2f})"
        if not report["memory"]["told"]:
            told = "too short a run to tell growth from warming up"
        print(
            f"memory {name.replace('_', ' '):<15} {memory['first_mb']:.2f} to "
            f"{memory['last_mb']:.2f} MB after warm-up, {told}"
        )
    print(f"p99 of submit to result, by part of the run: {report['p99_ms']} ms")
    for text in report["problems"]:
        print(f"PROBLEM: {text}")
    print("passed" if not report["problems"] else "FAILED")
    return 1 if report["problems"] else 0


def watch(soak: Soak) -> tuple[list[tuple[float, float, float]], list[tuple[float, float]]]:
    """Watch until the end: samples (seconds, MB, p99) of the busy process, and of rests (s, MB)."""
    samples, rests = [], []
    next_rest = time.monotonic() + REST_EVERY
    with phases(quiet=False) as phase:
        while not soak.over():
            phase("soak", int(time.monotonic() - soak.begun), int(soak.end - soak.begun))
            samples.append(busy_sample(soak))
            if time.monotonic() - soak.moved > STALL:
                soak.problem(f"no result for {STALL:.0f} s: deadlock")
            if time.monotonic() > next_rest and not soak.over():
                if not soak.rest.begin(STALL):
                    soak.problem(f"streams did not end within {STALL:.0f} s: deadlock")
                rests.append((time.monotonic() - soak.begun, at_rest()))
                soak.rest.end()
                next_rest += REST_EVERY
    return samples, rests


def busy_sample(soak: Soak) -> tuple[float, float, float]:
    """Watch for a while; the memory is the least seen, as frames in queues come and go."""
    least = resident()
    until = min(time.monotonic() + SAMPLE_EVERY, soak.end)
    while time.monotonic() < until:
        time.sleep(0.02)
        least = min(least, resident())
    with soak.lock:
        latencies, soak.latencies = soak.latencies, []
    p99 = float(np.quantile(latencies, 0.99)) if latencies else float("nan")
    return time.monotonic() - soak.begun, least, p99


def at_rest() -> float:
    """Megabytes of this process once all that is free is given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()


def growth(samples: list, minutes: float, alike: int) -> dict[str, Any]:
    """Judge samples (seconds, MB) after warm-up."""
    table = np.array([row[:2] for row in samples]).reshape(-1, 2)
    judged = table[table[:, 0] > minutes * 60 * WARM_UP]
    rate, low, high = slope(judged[:, 0], judged[:, 1], alike)
    return {
        "first_mb": float(judged[0, 1]) if len(judged) else 0.0,
        "last_mb": float(judged[-1, 1]) if len(judged) else 0.0,
        "slope_mb_per_hour": rate,
        "interval": [low if np.isfinite(low) else -1e9, high if np.isfinite(high) else 1e9],
    }


def memory_of(samples: list, rests: list, minutes: float) -> tuple[dict[str, Any], list[str]]:
    """Judge the memory: the report's entry, and what is wrong."""
    entry = {
        "warm_up_seconds": minutes * 60 * WARM_UP,
        "told": minutes >= 10,
        "at_rest": growth(rests, minutes, 1),
        "busy": growth(samples, minutes, 5),
    }
    wrong = []
    rate = entry["at_rest"]["slope_mb_per_hour"]
    if entry["told"] and rate >= SLOPE_LIMIT:
        wrong.append(f"memory at rest grows by {rate:.1f} MB an hour")
    low = entry["busy"]["interval"][0]
    if entry["told"] and low >= SLOPE_LIMIT:
        wrong.append(f"memory of the busy process grows by at least {low:.1f} MB an hour")
    return entry, wrong


def judge(path: Path) -> int:
    """Judge a report's memory again."""
    report = json.loads(path.read_text(encoding="utf-8"))
    others = [text for text in report["problems"] if not text.startswith("memory ")]
    report["memory"], wrong = memory_of(report["samples"], report["rests"], report["minutes"])
    report["problems"] = others + wrong
    with atomic_write(path, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    print(json.dumps(report["memory"], indent=1), *report["problems"], sep="\n")
    return 1 if report["problems"] else 0


def summarise(soak: Soak, samples: list, rests: list, args: argparse.Namespace) -> dict[str, Any]:
    """Judge the run and describe it in JSON's terms."""
    memory, wrong = memory_of(samples, rests, args.minutes)
    for text in wrong:
        soak.problem(text)
    p99 = [row[2] for row in samples if row[0] > memory["warm_up_seconds"]]
    parts = [part for part in np.array_split(np.array(p99), 6) if part.size]
    return {
        "command": f"python bench/soak.py --minutes {args.minutes:g}",
        "commit": soak.commit,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "minutes": args.minutes,
        "cameras": args.cameras,
        "seed": args.seed,
        "totals": dict(sorted(soak.totals.items())),
        "memory": memory,
        "p99_ms": [round(float(np.nanmedian(part)), 1) for part in parts],
        "samples": [[round(float(v), 2) for v in row[:2]] for row in samples],
        "rests": [[round(seconds, 2), round(mb, 3)] for seconds, mb in rests],
        "problems": soak.problems,
    }


if __name__ == "__main__":
    sys.exit(main())
