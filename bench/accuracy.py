"""Accuracy of trained runs, and how far engine, ONNX Runtime and bf16 are from PyTorch.

    python bench/accuracy.py --data DIR --run MODEL WEIGHTS SPLIT RUN [LIST] [--run ...]

DIR is in the MVTec layout, RUN a training run, LIST a text file of test images (one path a line);
MODEL, WEIGHTS (what the frozen part started from) and SPLIT are names for the table. Builds each
run's plan, evaluates it in f32 and bf16 on all test images, and compares maps on 32 of them. Enters
what it found into bench/results/mtd.json, where other runs' entries stay as they are; from it
bench/tables.py makes the table of the README.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import adfast
from adfast import evaluate
from adfast.benchmark import machine
from adfast.build import build
from adfast.calibrate import spearman
from adfast.compiler import compile_onnx
from adfast.export import export_onnx
from adfast.files import atomic_write
from adfast.images import read_image
from adfast.models import load_run

sys.path.insert(0, str(Path(__file__).parent))
from end_to_end import commit
from models import differences

RESULTS = Path(__file__).parent / "results" / "mtd.json"
PARITY_FRAMES = 32


def measure(data: Path, run: Path, test_list: Path | None) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plan = folder / "model.plan"
        built = build(run, plan, log=lambda line: print("  " + line))
        by_precision = {
            p: evaluate.evaluate(adfast.load(plan, precision=p), data, only=test_list)
            for p in ("f32", "bf16")
        }
        rows = by_precision["f32"]["rows"]
        picks = np.random.default_rng(0).choice(len(rows), PARITY_FRAMES, replace=False)
        frames = [read_image(data / rows[i]["image"]) for i in sorted(picks)]
        model, _ = load_run(run)
        onnx_path = export_onnx(run, folder / "model.onnx")
        found = differences(model, onnx_path, compile_onnx(onnx_path), plan, frames)
    info = json.loads((run / "config.json").read_text())
    scores = {p: [row["score"] for row in by_precision[p]["rows"]] for p in by_precision}
    metrics = {p: by_precision[p]["metrics"] for p in by_precision}
    chosen = built["precision"]
    return {
        "train_images": len(info["data"]["train"]),
        "validation_images": len(info["data"]["validation"]),
        "test_images": len(rows),
        "epochs": info["training"]["epochs"],
        "training": {k: info["training"][k] for k in ("batch", "lr", "seed", "precision")},
        "config": info["config"],
        "precision": chosen,
        "threshold": built["calibration"].get("threshold"),
        "verdicts": by_precision[chosen]["verdicts"],
        "metrics": metrics[chosen],
        "metrics_f32": metrics["f32"],
        "parity": {"frames": len(frames), **found},
        "bf16": {
            "spearman": spearman(scores["f32"], scores["bf16"]),
            "image_auroc_change": metrics["bf16"]["image_auroc"] - metrics["f32"]["image_auroc"],
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--run", nargs="+", action="append", required=True, metavar="MODEL WEIGHTS SPLIT RUN [LIST]"
    )
    args = parser.parse_args()
    report = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"runs": []}
    for model, weights, split, run, *rest in args.run:
        name = {"model": model, "weights": weights, "split": split}
        print(*name.values())
        entry = {
            **name,
            "command": "python bench/accuracy.py",
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "data": args.data.name,
            **measure(args.data, Path(run), Path(rest[0]) if rest else None),
        }
        others = [e for e in report["runs"] if {k: e[k] for k in name} != name]
        report["runs"] = sorted([*others, entry], key=lambda e: [e[k] for k in name])
        save(report)
        print(json.dumps(entry["metrics"], indent=1))
    return 0


def save(report: dict) -> None:
    with atomic_write(RESULTS, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    sys.exit(main())
