"""Which implementation of each step is the fastest on this machine, measured and kept in a file.

The engine chooses by an estimate that depends on the processor alone, so that the same plan gives
the same bits on every load. Where a machine differs from the estimate, `tune` measures: it runs the
plan once with each implementation, reads the engine's own clock around every step, and writes the
fastest of each step to a text file that `adfast.load(..., tactics=FILE)` reads, as C and C++ do.
"""

from __future__ import annotations

import datetime
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from adfast._version import __version__
from adfast.benchmark import machine, sample_frame
from adfast.engine import Engine, load
from adfast.errors import ArgumentError
from adfast.files import atomic_write
from adfast.progress import Track, silent

HEADING = "adfast tactics 1"
#: The words of csrc/backends/cpu: oneDNN's; Winograd's convolution, for tiles of 2 or 4 outputs;
#: Strassen's product, of linears and 1x1 convolutions.
TACTICS = ("direct", "winograd2", "winograd4", "strassen")
#: Between the names of two convolutions that the engine computes in one step.
JOINED = " + "
#: Another implementation must be this much faster than the engine's own choice: less may be noise.
WORTHWHILE = 0.95


def tune(
    plan: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: str | None = None,
    threads: int = 0,
    frame: np.ndarray | None = None,
    frames: int = 15,
    track: Track = silent,
) -> dict[str, Any]:
    """Measure every tactic on this machine and write the file for `adfast.load`.

    Args:
        plan: a plan file.
        output: the file to write, whole or not at all.
        precision: as `adfast.load`; what is measured holds for it only.
        threads: as `adfast.load`, too.
        frame: uint8 (H, W) or (H, W, 3) to run; by default one of the size the plan resizes to.
        frames: times each tactic runs it; the median counts.
        track: wraps the tactics, to show progress.

    Returns:
        {"steps": [{"name", "tactic", "kernel", "ms", "own_kernel", "own_ms"}, ...] of the steps
        that are told to differ from the engine's own choice, "own_ms" and "tuned_ms" of a frame}.

    Raises:
        PlanError, ArgumentError, AdfastError: as `adfast.load`; or the file cannot be written.
    """
    if frames < 1:
        raise ArgumentError(f"[tune] frames is {frames}, expected 1 or more")

    def opened(tactics: str | None = None) -> Engine:
        return load(plan, device="cpu", precision=precision, threads=threads, tactics=tactics)

    own = opened()
    if frame is None:
        frame = sample_frame(*own.info["resize"])
    with tempfile.TemporaryDirectory() as folder:
        measured = {"own": _step_times(own, frame, frames)}
        path = Path(folder) / "tactics"
        for tactic in track(TACTICS, "tactics"):
            path.write_text(f"{HEADING}\n{tactic} *\n", encoding="utf-8")
            measured[tactic] = _step_times(opened(str(path)), frame, frames)
    steps = []
    for name, (own_kernel, own_ms) in measured["own"].items():
        found = {}
        for tactic in TACTICS:
            kernel, ms = _of_step(measured[tactic], name)
            if kernel != own_kernel:
                found[tactic] = kernel, ms
        if not found:
            continue
        tactic = min(found, key=lambda t: found[t][1])
        kernel, ms = found[tactic]
        if ms < WORTHWHILE * own_ms:
            told = {"name": name, "tactic": tactic, "kernel": kernel, "ms": ms}
            steps.append(told | {"own_kernel": own_kernel, "own_ms": own_ms})
    info = own.info
    _write(Path(output), steps, info)
    tuned = opened(os.fspath(output))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(frames):  # in turn, so that a slower moment hits both
        for engine, kept in zip((own, tuned), times, strict=True):
            kept.append(engine.predict(frame).timings["total"])
    own_ms, tuned_ms = map(statistics.median, times)
    return {"steps": steps, "own_ms": own_ms, "tuned_ms": tuned_ms}


def _step_times(engine: Engine, frame: np.ndarray, frames: int) -> dict[str, tuple[str, float]]:
    """Return the kernel and median milliseconds of every convolution and linear, by name."""
    engine.profile(frame)
    kernels: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    for _ in range(frames):
        for step in engine.profile(frame):
            if step["op"] in ("conv2d", "linear"):
                kernels[step["name"]] = step["kernel"]
                times.setdefault(step["name"], []).append(step["ms"])
    return {name: (kernels[name], statistics.median(ms)) for name, ms in times.items()}


def _of_step(times: dict[str, tuple[str, float]], name: str) -> tuple[str, float]:
    """Return a step's kernel and time, or those of the two that it is taken apart into."""
    if name in times:
        return times[name]
    kernels, milliseconds = zip(*(times[part] for part in name.split(JOINED)), strict=True)
    return JOINED.join(kernels), sum(milliseconds)


def _write(path: Path, steps: list[dict[str, Any]], info: dict[str, Any]) -> None:
    host = machine()
    lines = [
        HEADING,
        f"# {info['name']}, {info['precision']}, {info['threads']} threads, isa {info['isa']}",
        f"# {host['processor']}, {host['cores']} cores; adfast {__version__}, "
        f"{datetime.date.today().isoformat()}",
        # Told of one of two, a joined step is taken apart.
        *(f"{step['tactic']} {step['name'].split(JOINED)[0]}" for step in steps),
    ]
    with atomic_write(path, "w") as file:
        file.write("\n".join(lines) + "\n")
