"""adfast eval: measure on labelled images: AUROC, AUPRO, F1-max, verdicts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from adfast import evaluate, report
from adfast.commands.selftest import add_engine_arguments, load_engine
from adfast.overlay import number
from adfast.predict import make_folder, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("plan", type=Path, help="a plan file, from adfast build")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="labelled images in the MVTec AD layout: DIR/test/good, DIR/test/<defect>, "
        "DIR/ground_truth/<defect>",
    )
    parser.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="only these images: paths relative to DIR, one a line",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write report.html and results.json here"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print one JSON document instead of the table, or write it to FILE beside the table",
    )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.out is not None:
        make_folder(args.out)
    engine = load_engine(args)
    result = evaluate_plan(engine, args.data, only=args.list)
    if args.out is not None:
        write_json(args.out / "results.json", result)
        parts = [
            report.paragraph(
                f"{args.plan} on {args.data}" + (f", {args.list}" if args.list else ""), dim=True
            ),
            *report.evaluation_parts(engine, args.data, result),
        ]
        report.write_page(args.out / "report.html", "Evaluation", parts)
    if args.json == "-":
        print(json.dumps(result, indent=1, allow_nan=False))
        return 0
    if args.json is not None:
        write_json(Path(args.json), result)
    print("\n".join(lines(result)))
    if args.out is not None:
        print(f"report: {args.out / 'report.html'}")
    return 0


def evaluate_plan(engine: Any, root: Path, only: Path | None = None) -> dict[str, Any]:
    """Evaluate with a counter on a terminal, and add what was run to the result."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(
                f"\r{done} of {total} images", end="\r" if done < total else "\n", file=sys.stderr
            )

    engine.warmup(3)
    result = evaluate.evaluate(engine, root, only=only, show=show)
    info = engine.info
    kept = ("plan", "model", "name", "precision", "isa", "threads", "adfast")
    return {
        "data": str(root),
        "list": only and str(only),
        "engine": {key: info[key] for key in kept if key in info},
        **result,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Lay a result out as text."""
    values, verdicts, pixels = result["metrics"], result["verdicts"], result["pixels"]
    percent = report.percent
    out = [
        f"image AUROC {percent(values['image_auroc'])}   "
        f"average precision {percent(values['image_ap'])}   "
        f"F1-max {percent(values['f1_max'])}   (percent)"
    ]
    if values["pixel_auroc"] is None:
        out.append("pixel metrics: none, there are no masks")
    else:
        out.append(
            f"pixel AUROC {percent(values['pixel_auroc'])}   "
            f"AUPRO up to FPR {pixels['fpr_limit']:g} {percent(values['aupro'])}   "
            f"over {pixels['area']}"
        )
    if pixels["empty_masks"]:
        out.append(
            f"{len(pixels['empty_masks'])} defective images with an empty mask "
            "are left out of the pixel metrics"
        )
    out += ["", f"{'class':<20}{'images':>8}{'AUROC':>8}{'median score':>14}{'anomalous':>11}"]
    for entry in result["classes"]:
        called = entry["called_anomalous"]
        out.append(
            f"{entry['label']:<20}{entry['images']:>8}{percent(entry['image_auroc']):>8}"
            f"{number(entry['score_median']):>14}{'–' if called is None else called:>11}"
        )
    out.append("")
    if verdicts is None:
        out.append("the plan has no threshold: scores only, no verdicts (adfast build --calibrate)")
    else:
        images = result["images"]
        out.append(
            f"at the plan's threshold {number(verdicts['threshold'])}: "
            f"{verdicts['false_alarms']} false alarms in {images['good']} good images "
            f"({percent(verdicts['false_alarm_rate'])} %), "
            f"{verdicts['misses']} misses in {images['defective']} defective ones "
            f"({percent(verdicts['miss_rate'])} %)"
        )
    latency = result["latency_ms"]
    out.append(f"latency: median {latency['median']:.2f} ms, longest {latency['max']:.2f} ms")
    return out
