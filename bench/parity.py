"""How far ONNX Runtime and the engine are from PyTorch, for every model at its paper's size.

    python bench/parity.py

Random weights, generated frames. Differences are the largest of any pixel of the map, as a fraction
of the map's maximum. Writes bench/results/parity.json, from which bench/tables.py makes the table
of the README.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from adfast.benchmark import machine, sample_frame
from adfast.files import atomic_write

sys.path.insert(0, str(Path(__file__).parent))
from models import MODELS, differences, make
from record import commit

RESULTS = Path(__file__).parent / "results" / "parity.json"
FRAMES = 4
ANSWERS = ("onnxruntime", "engine_f32", "engine_bf16")


def frames() -> list[np.ndarray]:
    """Frames of different sizes, from smooth to noisy."""
    random = np.random.default_rng(1)
    made = [sample_frame(300 + 40 * i, 500 - 60 * i) for i in range(FRAMES)]
    noise = random.integers(-40, 41, (FRAMES, 1, 1, 1))
    return [
        np.clip(f.astype(int) + n, 0, 255).astype(np.uint8)
        for f, n in zip(made, noise, strict=True)
    ]


def measure(title: str, folder: Path) -> dict:
    model, onnx_path, plan, compiled = make(title, folder)
    return {
        "config": MODELS[title][1],
        "crop": list(model.config.crop),
        "parameters": sum(p.numel() for p in model.parameters()),
        "nodes": len(compiled.graph.nodes),
    } | differences(model, onnx_path, compiled, plan, frames())


def main() -> int:
    report = {
        "command": "python bench/parity.py",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "frames": FRAMES,
        "models": {},
    }
    for title in MODELS:
        with tempfile.TemporaryDirectory() as scratch:
            report["models"][title] = entry = measure(title, Path(scratch))
        print(title, {k: entry[k]["map_max_rel"] for k in ANSWERS})
    with atomic_write(RESULTS, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
