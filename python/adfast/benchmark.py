"""Latency of an engine: percentiles by stage, and the protocol they were measured under."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import numpy as np

from adfast.errors import AdfastError

#: Percentiles reported beside min, mean and max.
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def measure(
    engine: Any, frame: np.ndarray, *, batch: int = 1, seconds: float = 5.0, warmup: float = 1.0
) -> dict[str, Any]:
    """Call the engine for `seconds`, one call after the other, and report latencies.

    Args:
        engine: an `adfast.Engine`, or anything with its `predict`, `predict_batch` and `info`.
        frame: uint8 (H, W) or (H, W, 3); the same frame every time, already in memory.
        batch: frames per call; more than 1 uses `predict_batch`.
        seconds: measuring time; at least 10 calls are made however long they take.
        warmup: seconds of calls that are not counted; at least 3.

    Returns:
        A dict in JSON's terms: "calls", "frames_per_second", "stages" (ms per frame for the
        engine's own stages, ms per call for "call"), "machine", "protocol".
    """
    if batch < 1 or not seconds > 0:
        raise AdfastError(f"bench: batch is {batch}, seconds {seconds}; both must be positive")
    frames = [frame] * batch

    def call() -> list[Any]:
        return [engine.predict(frame)] if batch == 1 else engine.predict_batch(frames)

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    warm = _repeat(call, warmup, 3)[0]
    calls, stages, elapsed = _repeat(call, seconds, 10)
    summaries = {"call": summarize(np.array(calls))}
    summaries |= {name: summarize(np.array(values)) for name, values in stages.items()}
    info = dict(engine.info)
    kept = ("model", "name", "precision", "isa", "device", "threads", "resize", "crop")
    return {
        "calls": len(calls),
        "batch": batch,
        "frame": list(frame.shape),
        "frames_per_second": batch * len(calls) / elapsed,
        "stages": summaries,
        "engine": {key: _plain(info[key]) for key in kept if key in info},
        "machine": {**machine(), "load_average_before": load},
        "protocol": (
            f"one caller, {'predict' if batch == 1 else f'predict_batch of {batch}'} in a closed "
            f"loop for {elapsed:.1f} s after {len(warm)} warm-up calls; the same uint8 frame in "
            "memory, decoding not counted; pre- and post-processing and the map in frame "
            "resolution counted; call: wall clock around the Python call, stages: the engine's "
            "own clocks, per frame"
        ),
    }


def summarize(values: np.ndarray) -> dict[str, float | None]:
    """Summarize latencies in ms; a percentile is None when not even one call lies beyond it."""
    out: dict[str, float | None] = {"min": float(values.min()), "mean": float(values.mean())}
    for percentile in PERCENTILES:
        seen = values.size * (100 - percentile) / 100 >= 1
        name = f"p{percentile:g}"
        # An observed value, not an interpolated one.
        out[name] = float(np.percentile(values, percentile, method="higher")) if seen else None
    out["max"] = float(values.max())
    return out


def machine() -> dict[str, Any]:
    """Name the processor, the cores this process may use and the operating system."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    name = line.split(":", 1)[1].strip()
                    break
    except OSError:
        pass
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": name,
        "cores": usable,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def sample_frame(height: int, width: int) -> np.ndarray:
    """Make a frame with structure at every scale, uint8 (height, width, 3), the same each time."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = 60 * np.sin(x / 19) * np.cos(y / 27)
    channels = [128 + waves + 20 * np.sin((x + k * y) / 7) for k in (1, 2, 3)]
    noise = rng.normal(0, 6, (height, width, 3))
    return np.clip(np.stack(channels, axis=-1) + noise, 0, 255).astype(np.uint8)


def lines(report: dict[str, Any]) -> list[str]:
    """Lay a report out as text."""
    engine, host = report["engine"], report["machine"]
    stages = report["stages"]
    columns = list(stages["call"])
    out = ["ms".ljust(10) + "".join(column.rjust(9) for column in columns)]
    for name, summary in stages.items():
        cells = ("–" if summary[c] is None else f"{summary[c]:.3f}" for c in columns)
        out.append(name.ljust(10) + "".join(cell.rjust(9) for cell in cells))
    out.append("")
    out.append(
        f"{report['frames_per_second']:.1f} frames/s, {report['calls']} calls, batch "
        f"{report['batch']}"
    )
    out.append(
        f"{host['processor']}, {host['cores']} cores usable, load {host['load_average_before']}; "
        + ", ".join(f"{key} {value}" for key, value in engine.items())
    )
    out.append(f"protocol: {report['protocol']}")
    if any(value is None for value in stages["call"].values()):
        out.append("– : too few calls for this percentile; measure longer with --seconds")
    return out


def _repeat(
    call: Any, seconds: float, least: int
) -> tuple[list[float], dict[str, list[float]], float]:
    calls: list[float] = []
    stages: dict[str, list[float]] = {}
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        results = call()
        end = time.perf_counter()
        calls.append(1e3 * (end - start))
        for result in results:
            for name, value in result.timings.items():
                stages.setdefault(name, []).append(float(value))
        if end - begin >= seconds and len(calls) >= least:
            return calls, stages, end - begin


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
