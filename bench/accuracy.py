"""Accuracy of trained runs and of their models untrained; how far the engine is from PyTorch.

    python bench/accuracy.py --data DIR [--out DIR] --run MODEL WEIGHTS SPLIT RUN [LIST] [--run ...]
    python bench/accuracy.py --data DIR --untrained MODEL WEIGHTS SPLIT FILE [TRAIN TEST] [...]

DIR is in the MVTec layout, RUN a training run, LIST a text file of test images (one path a line);
MODEL, WEIGHTS (what the frozen part started from) and SPLIT are names for the table. Builds each
run's plan, evaluates it in f32, in bf16 and as built on all test images, and compares maps on 32
of them. Enters what it found into bench/results/mtd.json, where other runs' entries stay as they
are; from it bench/tables.py makes the table of the README. --out also writes pages: one of each run
as `adfast eval` has it, and index.html over all entries.

Beside each run stands what the same model reaches untrained, in f32 on the same images:
"untrained" with the frozen part's weights and the learned part as the run's seed made it, "random"
with a random frozen part too, where the run's had weights. --untrained measures that for an entry
whose run is no longer there, from what the entry says of it; FILE is the frozen part's weights (or
none), TRAIN and TEST are the lists of the split.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import adfast
from adfast import evaluate, report
from adfast.benchmark import machine
from adfast.bootstrap import Bootstrap
from adfast.build import build
from adfast.calibrate import spearman
from adfast.commands.eval import evaluate_plan, write_report
from adfast.compiler import compile_onnx
from adfast.compiler.writer import Golden, write_plan
from adfast.export import export_onnx
from adfast.files import atomic_write
from adfast.images import read_image
from adfast.models import load_run
from adfast.training import TrainSettings, checkpoint
from adfast.training.reporting import Reporter
from adfast.training.run import Run

sys.path.insert(0, str(Path(__file__).parent))
from models import differences
from record import commit

RESULTS = Path(__file__).parent / "results" / "mtd.json"
PARITY_FRAMES = 32
METRICS = ("image_auroc", "pixel_auroc", "aupro")
MEAN_MAP_IMAGES = 64  # of the mean maps of untrained models that can take it from fewer than all


def measure(data: Path, run: Path, test_list: Path | None, page: Path | None) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plan = folder / f"{run.name}.plan"
        built = build(run, plan, log=lambda line: print("  " + line))
        chosen = built["precision"]
        by_precision = {}
        for precision in dict.fromkeys(("f32", "bf16", chosen)):
            engine = adfast.load(plan, precision=precision)
            how = Bootstrap(resamples=1000 if precision == chosen else 0)
            found = evaluate_plan(engine, data, test_list, how)
            by_precision[precision] = found
            if page is not None and precision == chosen:
                write_report(page, engine, found)
        rows = by_precision["f32"]["rows"]
        picks = np.random.default_rng(0).choice(len(rows), PARITY_FRAMES, replace=False)
        frames = [read_image(data / rows[i]["image"]) for i in sorted(picks)]
        model, _ = load_run(run)
        onnx_path = export_onnx(run, folder / "model.onnx")
        found = differences(model, onnx_path, compile_onnx(onnx_path), plan, frames)
    info = json.loads((run / "config.json").read_text())
    scores = {p: [row["score"] for row in by_precision[p]["rows"]] for p in by_precision}
    metrics = {p: by_precision[p]["metrics"] for p in by_precision}
    return {
        "train_images": len(info["data"]["train"]),
        "validation_images": len(info["data"]["validation"]),
        "test_images": len(rows),
        "epochs": info["training"]["epochs"],
        "train_minutes": train_minutes(run),
        "training": {k: info["training"][k] for k in ("batch", "lr", "seed", "precision")},
        "config": info["config"],
        "precision": chosen,
        "threshold": built["calibration"].get("threshold"),
        "verdicts": by_precision[chosen]["verdicts"],
        "metrics": metrics[chosen],
        "intervals": by_precision[chosen]["intervals"],
        "metrics_f32": metrics["f32"],
        "seconds": by_precision[chosen]["seconds"],
        "parity": {"frames": len(frames), **found},
        "bf16": {
            "spearman": spearman(scores["f32"], scores["bf16"]),
            "image_auroc_change": metrics["bf16"]["image_auroc"] - metrics["f32"]["image_auroc"],
        },
    }


def train_minutes(run: Path) -> float:
    """Return the minutes that the run's epochs took."""
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["seconds"] for line in lines) / 60


def untrained(settings: TrainSettings, data: Path, test_list: Path | None) -> dict:
    """Evaluate what `settings` would train, before they do, with its frozen part and without."""
    config = dict(settings.config)
    if config.get("alpha_scale"):  # of GTrans: it is measured anew
        config["alpha_scale"] = None
    if "mean_map_images" in config:
        config["mean_map_images"] = MEAN_MAP_IMAGES
    settings = replace(settings, config=config, cache="images", tensorboard=False)
    found = {"untrained": evaluate_untrained(settings, data, test_list)}
    if settings.weights != "none":
        found["random"] = evaluate_untrained(replace(settings, weights="none"), data, test_list)
    for values in found.values():
        if "mean_map_images" in config:
            values["mean_map_images"] = MEAN_MAP_IMAGES
        values |= {"commit": commit(), "date": datetime.date.today().isoformat()}
        values["machine"] = machine()
    return found


def evaluate_untrained(settings: TrainSettings, data: Path, test_list: Path | None) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = Run(settings, folder / "run", False, Reporter())
        checkpoint.save_model(folder / "run" / "best.safetensors", run.model)
        run.finish()
        onnx_path = export_onnx(folder / "run", folder / "model.onnx")
        compiled = compile_onnx(onnx_path)
        plan = folder / "model.plan"
        write_plan(plan, compiled.graph, compiled.fields, {}, Golden(), {}, {})
        engine = adfast.load(plan, device="cpu", precision="f32")
        found = evaluate.evaluate(engine, data, only=test_list, how=Bootstrap(resamples=0))
    return {name: found["metrics"][name] for name in METRICS}


def settings_of(run: Path) -> TrainSettings:
    """Return a run's settings with the config that it settled on, such as SAAE's width."""
    info = json.loads((run / "config.json").read_text())
    return TrainSettings(**{**info["training"], "config": info["config"]})


def settings_from(entry: dict, weights: str, data: Path, train_list: str | None) -> TrainSettings:
    """Return the settings of an entry's run."""
    name = entry["model"].split("-")[0].split(" ")[0].lower()
    return TrainSettings(
        model=name,
        config=entry["config"],
        data=str(data),
        list_file=train_list,
        weights=weights,
        **entry["training"],
    )


def overview(out: Path, runs: list[dict]) -> None:
    """Write index.html, the table of all entries, with links to the pages that are there."""

    def page(entry: dict) -> str | report.Html:
        name = page_name(entry)
        title = f"{entry['model']}, {entry['split']}"
        return report.link(name, title) if (out / name).is_file() else title

    def pair(values: dict | None, name: str) -> str:
        return report.percent((values or {}).get(name))

    header = ["run", "training", "image AUROC", "untrained", "random"]
    header += ["pixel AUROC", "untrained", "random", "AUPRO", "untrained", "random"]
    rows = []
    for entry in runs:
        cells = [page(entry), f"{entry['train_images']} images, {entry['epochs']} epochs"]
        for name in METRICS:
            ends = report.interval(entry.get("intervals", {}).get(name))
            cells.append((report.percent(entry["metrics"][name]), ends))
            cells += [pair(entry.get(kind), name) for kind in ("untrained", "random")]
        rows.append(cells)
    parts = [
        report.paragraph(
            "Percent, 95 % intervals. Untrained: the same model with the frozen part's weights and "
            "the learned part as it was initialised. Random: the frozen part random too.",
            dim=True,
        ),
        report.table(header, rows),
    ]
    data = ", ".join(sorted({entry["data"] for entry in runs}))
    report.write_page(out / "index.html", f"Accuracy on {data}", parts)


def page_name(entry: dict) -> str:
    words = f"{entry['model']} {entry['split']}".lower()
    return "".join(c if c.isalnum() else "-" for c in words) + ".html"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write pages there")
    several = {"nargs": "+", "action": "append", "default": []}
    parser.add_argument("--run", metavar="MODEL WEIGHTS SPLIT RUN [LIST]", **several)
    parser.add_argument("--untrained", metavar="MODEL WEIGHTS SPLIT FILE [TRAIN TEST]", **several)
    args = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"runs": []}
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    for model, weights, split, run, *rest in args.run:
        name = {"model": model, "weights": weights, "split": split}
        print(*name.values(), flush=True)
        tested = Path(rest[0]) if rest else None
        page = args.out and args.out / page_name(name)
        entry = {
            **name,
            "command": "python bench/accuracy.py",
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "data": args.data.name,
            **measure(args.data, Path(run), tested, page),
        }
        print(f"  evaluated {entry['test_images']} images in {entry.pop('seconds')}", flush=True)
        enter(found, name, entry)
        enter(found, name, entry | untrained(settings_of(Path(run)), args.data, tested))
    for model, weights, split, file, *lists in args.untrained:
        name = {"model": model, "weights": weights, "split": split}
        print(*name.values(), flush=True)
        (entry,) = (e for e in found["runs"] if {k: e[k] for k in name} == name)
        train_list, tested = lists or (None, None)
        settings = settings_from(entry, file, args.data, train_list)
        enter(found, name, entry | untrained(settings, args.data, tested and Path(tested)))
    if args.out is not None:
        overview(args.out, found["runs"])
    return 0


def enter(found: dict, name: dict, entry: dict) -> None:
    """Replace or add an entry, and save all."""
    others = [e for e in found["runs"] if {k: e[k] for k in name} != name]
    found["runs"] = sorted([*others, entry], key=lambda e: [e[k] for k in name])
    with atomic_write(RESULTS, "w") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    for kind in ("metrics", "untrained", "random"):
        if kind in entry:
            values = entry[kind]
            print(f"  {kind}: " + ", ".join(f"{k} {values[k]:.4f}" for k in METRICS), flush=True)


if __name__ == "__main__":
    sys.exit(main())
