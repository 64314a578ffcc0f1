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

# Smaller steps say little of the rates that can be reached: clocks and calls weigh too much.
_SIZEABLE_GFLOP = 0.01
_SIZEABLE_BYTES = 1e6

# Instruction sets that decide how fast a network can be: our word, the kernel's flag.
_INSTRUCTIONS = {
    "avx2": "avx2",
    "avx512": "avx512f",
    "vnni": "avx512_vnni",
    "bf16": "avx512_bf16",
    "fp16": "avx512_fp16",
    "amx": "amx_tile",
}


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
    """Name the processor, the cores this process may use and the operating system.

    A virtual machine may call a processor of any generation by the same name, so that family and
    model stand beside it.
    """
    about: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if not line.strip():
                    break  # the first core is as the others
                key, _, value = line.partition(":")
                about[key.strip()] = value.strip()
    except OSError:
        pass
    name = about.get("model name") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= set(about):
        name += f", family {about['cpu family']} model {about['model']}"
    flags = set(about.get("flags", "").split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": name,
        "cores": usable,
        "instructions": [word for word, flag in _INSTRUCTIONS.items() if flag in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def profile(engine: Any, frame: np.ndarray, *, seconds: float = 2.0) -> dict[str, Any]:
    """Profile frames for `seconds`, at least five, and report each step's median.

    `share_of_best` compares a step with the best of the same plan: its flops at the most GFLOP/s
    that any step of some size reached, or its bytes at the most GB/s, whichever takes longer, over
    what it took. It shows which steps lag behind the others, not how far all are from the machine's
    peak; bytes are counted once each, wherever in the caches they lie.

    Args:
        engine: an `adfast.Engine`, or anything with its `profile`.
        frame: uint8 (H, W) or (H, W, 3).
        seconds: how long; the first two frames are not counted.

    Returns:
        {"frames", "best_gflops", "best_gbs", "steps": [{"op", "name", "kernel", "lane", "ms",
        "gflop", "bytes", "gflops", "gbs", "share_of_best"}, ...] from the longest, "ops": totals
        of each kind of op, "frame_steps": the steps of the frame of median length, as
        `Engine.profile` returns them}.
    """
    for _ in range(2):
        engine.profile(frame)
    runs, begin = [], time.perf_counter()
    while len(runs) < 5 or time.perf_counter() - begin < seconds:
        runs.append(engine.profile(frame))
    by_index: dict[int, list[float]] = {}
    for run in runs:
        for step in run:
            by_index.setdefault(step["index"], []).append(step["ms"])
    kept = ("op", "name", "kernel", "lane", "gflop", "bytes")
    steps = [
        {key: step[key] for key in kept} | {"ms": float(np.median(by_index[step["index"]]))}
        for step in runs[0]
    ]
    for step in steps:
        step |= _rates(step)
    fastest = max((s["gflops"] for s in steps if s["gflop"] >= _SIZEABLE_GFLOP), default=None)
    widest = max((s["gbs"] for s in steps if s["bytes"] >= _SIZEABLE_BYTES), default=None)
    for step in steps:
        bounds = [1e3 * step["gflop"] / fastest if fastest else 0.0]
        bounds.append(1e-6 * step["bytes"] / widest if widest else 0.0)
        step["share_of_best"] = min(1.0, max(bounds) / step["ms"]) if step["ms"] > 0 else None
    ops: dict[str, dict[str, Any]] = {}
    for step in steps:
        total = ops.setdefault(
            step["op"], {"op": step["op"], "steps": 0, "ms": 0.0, "gflop": 0.0, "bytes": 0.0}
        )
        total["steps"] += 1
        for key in ("ms", "gflop", "bytes"):
            total[key] += step[key]
    for total in ops.values():
        total |= _rates(total)
    lengths = [max(s["begin_ms"] + s["ms"] for s in run) for run in runs]
    return {
        "frames": len(runs),
        "best_gflops": fastest,
        "best_gbs": widest,
        "steps": sorted(steps, key=lambda step: -step["ms"]),
        "ops": sorted(ops.values(), key=lambda total: -total["ms"]),
        "frame_steps": runs[int(np.argsort(lengths)[len(runs) // 2])],
    }


def _rates(step: dict[str, Any]) -> dict[str, float]:
    seconds = max(1e-3 * step["ms"], 1e-9)
    return {"gflops": step["gflop"] / seconds, "gbs": 1e-9 * step["bytes"] / seconds}


def profile_lines(report: dict[str, Any], rows: int) -> list[str]:
    """Lay a profile out as text: the `rows` longest steps (0: all), then totals by kind of op."""
    steps, whole = report["steps"], sum(step["ms"] for step in report["steps"])
    shown = steps[: rows or None]
    header = "ms".rjust(9) + "share".rjust(7) + "GFLOP/s".rjust(9) + "GB/s".rjust(8)
    out = [f"{header}{'of best':>9} lane  op, kernel, name"]

    def figures(row: dict[str, Any]) -> str:
        share = 100 * row["ms"] / whole
        return f"{row['ms']:9.3f}{share:6.1f}%{row['gflops']:9.1f}{row['gbs']:8.1f}"

    for step in shown:
        best = "–" if step["share_of_best"] is None else f"{100 * step['share_of_best']:.0f}%"
        text = f"{step['op']:<18} {step['kernel']:<24} {step['name']}"
        out.append(f"{figures(step)}{best:>9}{step['lane']:>5}  {text}")
    if len(shown) < len(steps):
        rest = sum(step["ms"] for step in steps[len(shown) :])
        out.append(
            f"{rest:9.3f}{100 * rest / whole:6.1f}%  in {len(steps) - len(shown)} more steps"
        )
    out += ["", f"{header}  steps  op"]
    out += [f"{figures(total)}{total['steps']:>7}  {total['op']}" for total in report["ops"]]
    out += [
        "",
        f"medians of {report['frames']} frames; shares are of the sum over all lanes. of best: a "
        "step's time at the best rates that sizeable steps of this plan reached, by its own time: "
        + " and ".join(
            f"{value:.0f} {unit}"
            for value, unit in ((report["best_gflops"], "GFLOP/s"), (report["best_gbs"], "GB/s"))
            if value is not None
        ),
    ]
    return out


def chrome_trace(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Turn the steps of one frame into a trace for chrome://tracing or Perfetto, a row per lane."""
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": lane, "args": {"name": f"lane {lane}"}}
        for lane in sorted({step["lane"] for step in steps})
    ]
    for step in steps:
        events.append(
            {
                "name": step["name"] or step["op"],
                "cat": step["op"],
                "ph": "X",
                "ts": 1e3 * step["begin_ms"],
                "dur": 1e3 * step["ms"],
                "pid": 0,
                "tid": step["lane"],
                "args": {key: step[key] for key in ("op", "kernel", "gflop", "bytes")},
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ms"}


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
