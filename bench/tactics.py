"""What the choice of kernels brings: the engine as it is against oneDNN's, step by step.

    python bench/tactics.py [--models MODEL ...] [--precision f32 bf16 int8] [--budget SECONDS]

Random weights, one frame of 512x512, all cores. The two engines take turns frame by frame, so that
a machine that slows down slows down both; their maps are compared first. Then both are profiled, in
turns too, and the steps that differ are summed by kernel. Results go to bench/results/tactics.json,
by machine; from there bench/tables.py makes the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import figures
from models import MODELS, make, quantise
from record import commit, machine_key

import adfast
from adfast.benchmark import machine, sample_frame
from adfast.files import atomic_write
from adfast.tune import HEADING, JOINED

RESULTS = Path(__file__).parent / "results" / "tactics.json"
FRAME = sample_frame(512, 512)
# Winograd's and Strassen's sums round otherwise than direct ones; f32 results must stay this close.
# In int8, own kernels compute in floats, so that maps differ by what int8 loses.
TOLERANCE = {"f32": 1e-4, "bf16": 0.25, "int8": 0.25}
LEAST = 5


def engines(title: str, precision: str, folder: Path) -> dict[str, adfast.Engine]:
    _, _, plan, compiled = make(title, folder)
    if precision == "int8":
        quantise(plan, compiled, [FRAME])
    told = folder / "direct"
    told.write_text(f"{HEADING}\ndirect *\n", encoding="utf-8")
    return {
        "direct": adfast.load(plan, precision=precision, tactics=told),
        "own": adfast.load(plan, precision=precision),
    }


def measure(title: str, precision: str, budget: float) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        both = engines(title, precision, Path(folder))
        maps = {name: engine.predict(FRAME).network_map for name, engine in both.items()}
        error = float(np.abs(maps["own"] - maps["direct"]).max() / maps["direct"].max())
        assert error <= TOLERANCE[precision], f"{title} {precision}: maps differ by {error:.2g}"
        times: dict[str, list[float]] = {name: [] for name in both}
        for _ in turns(budget / 2):
            for name, engine in both.items():
                times[name].append(engine.predict(FRAME).timings["total"])
        steps: dict[str, dict[str, list[dict]]] = {name: {} for name in both}
        for _ in turns(budget / 2):
            for name, engine in both.items():
                for step in engine.profile(FRAME):
                    steps[name].setdefault(step["name"], []).append(step)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "direct_ms": medians["direct"],
        "own_ms": medians["own"],
        **figures.ratio(times["direct"], times["own"]),
        "rounds": len(times["own"]),
        "map_difference": error,
        "kernels": by_kernel(steps["direct"], steps["own"]),
    }


def turns(seconds: float):
    end, count = time.perf_counter() + seconds, 0
    while count < LEAST or time.perf_counter() < end:
        yield count
        count += 1


def by_kernel(direct: dict[str, list[dict]], own: dict[str, list[dict]]) -> dict[str, dict]:
    """Sum the medians of the steps whose kernels differ, by the kernel that was chosen."""
    sums: dict[str, dict] = {}
    for name, found in own.items():
        # Conversions differ with the kernels around them; they are in the whole times.
        if found[0]["op"] == "convert":
            continue
        # A joined step has the names of what it is taken apart into.
        parts = [direct[part] for part in ([name] if name in direct else name.split(JOINED))]
        if parts[0][0]["kernel"] == found[0]["kernel"]:
            continue
        entry = sums.setdefault(
            found[0]["kernel"], {"steps": 0, "gflop": 0.0, "direct_ms": 0.0, "own_ms": 0.0}
        )
        entry["steps"] += 1
        entry["gflop"] += found[0]["gflop"]
        for part in parts:
            entry["direct_ms"] += statistics.median(step["ms"] for step in part)
        entry["own_ms"] += statistics.median(step["ms"] for step in found)
    return sums


def save(title: str, precision: str, entry: dict) -> None:
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machines": {}}
    host = machine()
    mine = report["machines"].setdefault(machine_key(host), {"models": {}})
    mine |= {
        "command": "python bench/tactics.py",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": host,
    }
    mine["models"].setdefault(title, {})[precision] = entry
    with atomic_write(RESULTS, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=figures.ROWS, default=figures.ROWS)
    parser.add_argument("--precision", nargs="+", choices=tuple(TOLERANCE), default=("f32",))
    parser.add_argument("--budget", type=float, default=20, help="seconds for each model")
    args = parser.parse_args()
    assert set(args.models) <= set(MODELS)
    for title in args.models:
        for precision in args.precision:
            entry = measure(title, precision, args.budget)
            save(title, precision, entry)
            print(
                f"{title:12s} {precision}: direct {entry['direct_ms']:8.2f} ms, own "
                f"{entry['own_ms']:8.2f}, {entry['ratio']:.2f}x, maps differ by "
                f"{entry['map_difference']:.1e}",
                flush=True,
            )
            for kernel, sums in entry["kernels"].items():
                print(
                    f"    {sums['steps']:3d} steps {kernel:28s} {sums['direct_ms']:8.2f} -> "
                    f"{sums['own_ms']:8.2f} ms"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
