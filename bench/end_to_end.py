"""From frame to score and map, against ONNX Runtime, OpenVINO and torch.compile.

    pytest bench/end_to_end.py -s [--benchmark-json FILE]

Random weights (time does not depend on them), batch 1, every processor core. Answers are checked
before anything is timed. Contestants take turns within each round, so that a machine that slows
down slows down for all; ratios are medians of the rounds' ratios. Results go to
bench/results/end_to_end.json, from which bench/tables.py makes the table of the README.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import peers
from models import MODELS, make

import adfast
from adfast.benchmark import machine, sample_frame
from adfast.files import atomic_write

RESULTS = Path(__file__).parent / "results" / "end_to_end.json"
FRAME = sample_frame(512, 512)
THREADS = len(os.sched_getaffinity(0))
ROUNDS = int(os.environ.get("ADFAST_BENCH_ROUNDS", "25"))
# Largest difference of a map from PyTorch's f32 map, over that map's maximum.
# In bf16 random weights, which reconstruct nothing, exaggerate it.
TOLERANCE = {"f32": 1e-3, "bf16": 0.25}


def contestants(title: str, folder: Path) -> dict[str, peers.Contestant]:
    import torch

    from adfast.data.folder import to_network

    model, onnx_path, plan, _ = make(title, folder)
    config = model.config
    image = to_network(FRAME, config.resize, config.crop)[None].numpy()
    calls = {f"adfast {p}": peers.engine(plan, p, THREADS, FRAME) for p in ("bf16", "f32")}
    for precision in ("bf16", "f32"):
        calls[f"OpenVINO {precision}"] = peers.openvino(onnx_path, precision, THREADS, image)
    calls["ONNX Runtime f32"] = peers.onnxruntime(onnx_path, THREADS, image)
    with torch.no_grad():
        expected = model(torch.from_numpy(image))[1][0, 0].numpy()
    for precision in ("bf16", "f32"):
        name = f"torch.compile {precision}"
        calls[name] = peers.torch_compile(model, precision, THREADS, image)
    for name, call in calls.items():
        error = np.abs(call()[1] - expected).max() / expected.max()
        assert error <= TOLERANCE[name.split()[-1]], f"{name}: map differs by {error:.2g}"
    return calls


def summary(samples: list[float]) -> dict[str, float]:
    values = np.array(samples)
    names = {"median_ms": 50, "p90_ms": 90, "p99_ms": 99}
    result = {key: float(np.percentile(values, q)) for key, q in names.items()}
    return {"min_ms": float(values.min()), **result}


def ratios(times: dict[str, list[float]], ours: str, precision: str) -> dict[str, object]:
    """Against the best peer of the same precision: median of the rounds' ratios, and quartiles."""
    others = [n for n in times if n.endswith(precision) and not n.startswith("adfast")]
    best = min(others, key=lambda n: np.median(times[n]))
    per_round = np.array(times[best]) / np.array(times[ours])
    low, middle, high = np.percentile(per_round, [25, 50, 75])
    return {"best_peer": best, "ratio": float(middle), "quartiles": [float(low), float(high)]}


def commit() -> str:
    root = Path(__file__).parent.parent
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    dirty = subprocess.run([*git, "status", "--porcelain", "csrc", "kernels"], capture_output=True)
    return head.stdout.strip() + ("+changes" if dirty.stdout else "")


def save(model: str, entry: dict) -> None:
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": {}}
    packages = ("torch", "onnxruntime", "openvino", "numpy")
    report |= {
        "command": "make bench",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "threads": THREADS,
        "frame": list(FRAME.shape),
        "rounds": ROUNDS,
        "versions": {"adfast": adfast.__version__} | {p: metadata.version(p) for p in packages},
    }
    report["models"][model] = entry
    RESULTS.parent.mkdir(exist_ok=True)
    with atomic_write(RESULTS, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


# ADTR+ is ADTR with other weights: the same work.
@pytest.mark.parametrize("model", [title for title in MODELS if title != "ADTR+"])
def test_end_to_end(model, benchmark, tmp_path):
    calls = contestants(model, tmp_path)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()

    def one_round():
        # The order turns, so that nobody always follows the same neighbour.
        names = list(calls)
        turn = len(times[names[0]]) % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(peers.timed(calls[name]))

    ours = "adfast bf16"
    benchmark.pedantic(calls[ours], setup=one_round, rounds=ROUNDS, iterations=1)
    entry = {
        "times": {name: summary(samples) for name, samples in times.items()},
        "ratios": {p: ratios(times, f"adfast {p}", p) for p in ("bf16", "f32")},
    }
    benchmark.extra_info.update(entry)
    save(model, entry)
    print(f"\n{model}, {THREADS} threads, {ROUNDS} rounds")
    for name, row in sorted(entry["times"].items(), key=lambda item: item[1]["median_ms"]):
        print(f"  {name:20s} median {row['median_ms']:8.2f} ms   p90 {row['p90_ms']:8.2f}")
    for precision, row in entry["ratios"].items():
        low, high = row["quartiles"]
        print(
            f"  {precision}: {row['ratio']:.2f}x the best peer, {row['best_peer']}"
            f" (quartiles {low:.2f} to {high:.2f})"
        )
