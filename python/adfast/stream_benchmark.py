"""What a stream does at the rate of cameras: latencies from submitting to the result, and drops."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from adfast.benchmark import PERCENTILES, machine, summarize
from adfast.errors import AdfastError, StreamFull


def measure_stream(
    engine: Any,
    frame: np.ndarray,
    *,
    cameras: int = 1,
    fps: float = 0.0,
    policy: str = "drop_oldest",
    capacity: int = 4,
    seconds: float = 5.0,
    warmup: int = 3,
) -> dict[str, Any]:
    """Let cameras submit a frame at their rate for `seconds`, and report what became of them.

    Args:
        engine: an `adfast.Engine`.
        frame: as for `Engine.predict`; the same every time.
        cameras: threads that submit.
        fps: frames a second of each camera; 0: as fast as it can, which needs the policy "block".
        policy: see `Engine.stream`.
        capacity: see `Engine.stream`.
        seconds: measuring time.
        warmup: frames that are not counted.

    Returns:
        A dict in JSON's terms: "frames_per_second" of results, "latency_ms" and "queue_ms" (see
        `benchmark.summarize`), "counters" (see `Stream.counters`), "machine", "protocol".

    Raises:
        AdfastError: an argument is out of range.
    """
    if cameras < 1 or fps < 0 or not seconds > 0:
        raise AdfastError(
            f"bench: cameras is {cameras}, fps {fps:g}, seconds {seconds:g}; expected at least one "
            "camera, a rate of 0 (as fast as it can) or more, and some time"
        )
    if fps == 0 and policy != "block":
        raise AdfastError(
            "bench: cameras without a rate only fill the queue; give --fps, or --policy block"
        )
    engine.warmup(warmup)
    stream = engine.stream(capacity=capacity, policy=policy)
    end = time.perf_counter() + seconds

    def camera(number: int) -> None:
        # Cameras of one rate are rarely in step.
        due = time.perf_counter() + (number / cameras / fps if fps else 0)
        while due < end and time.perf_counter() < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                stream.submit(frame, id=number)
            except StreamFull:
                pass
            due += 1 / fps if fps else 0

    threads = [threading.Thread(target=camera, args=(n,), daemon=True) for n in range(cameras)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()

    def finish() -> None:
        for thread in threads:
            thread.join()
        stream.close()

    closer = threading.Thread(target=finish, daemon=True)
    closer.start()
    results = [(result.total_ms, result.queue_ms) for result in stream]
    elapsed = time.perf_counter() - begun
    closer.join()
    times = np.array(results).reshape(-1, 2)
    counters = stream.counters
    return {
        "frames_per_second": len(results) / elapsed,
        "latency_ms": summarize(times[:, 0]) if results else None,
        "queue_ms": summarize(times[:, 1]) if results else None,
        "counters": {k: v for k, v in counters.items() if not k.endswith("_ms")},
        "machine": machine(),
        "protocol": {
            "cameras": cameras,
            "fps": fps,
            "policy": policy,
            "capacity": capacity,
            "seconds": seconds,
            "frame": list(frame.shape),
            "precision": engine.info["precision"],
            "threads": engine.info["threads"],
        },
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Lay a result out for people."""
    told, counters = result["protocol"], result["counters"]
    rate = f"{told['fps']:g} frames a second each" if told["fps"] else "as fast as they can"
    text = [
        f"{told['cameras']} camera(s), {rate}, frames {told['frame']}, {told['precision']}, "
        f"{told['threads']} threads, queue of {told['capacity']}, {told['policy']}",
        f"{result['frames_per_second']:.1f} results a second",
        ", ".join(f"{name} {value}" for name, value in counters.items() if value),
    ]
    names = ["min", "mean", *(f"p{p:g}" for p in PERCENTILES), "max"]
    text.append(f"{'ms':<18}" + "".join(f"{name:>9}" for name in names))
    for title, key in (("submit to result", "latency_ms"), ("in the queue", "queue_ms")):
        if result[key] is not None:
            values = (result[key][name] for name in names)
            shown = ("-" if value is None else f"{value:.3f}" for value in values)
            text.append(f"{title:<18}" + "".join(f"{value:>9}" for value in shown))
    return text
