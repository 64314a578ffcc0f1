"""adfast eval: measure on labelled images: AUROC, AUPRO, F1-max, verdicts."""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from adfast import evaluate, published, report
from adfast._version import __version__
from adfast.benchmark import machine
from adfast.bootstrap import Bootstrap
from adfast.calibrate import describe
from adfast.categories import averages, find_categories, find_models, having
from adfast.commands.formats import add_pixel_format_argument
from adfast.commands.selftest import add_engine_arguments, engine_options
from adfast.errors import ArgumentError, DataError, ModelError
from adfast.images import refuse
from adfast.overlay import number
from adfast.predict import make_folder, write_json
from adfast.progress import Track, bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="PLAN|RUN|MODELS",
        help="a plan file, from adfast build; or the folder of a training run, which PyTorch "
        "computes: no threshold then, so no verdicts; or, for DATA of several categories, a folder "
        "of <category>.plan files or <category>/ runs",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DATA",
        help="labelled images in the MVTec AD layout: DATA/test/good, DATA/test/<defect>, "
        "DATA/ground_truth/<defect> (masks, may be left out); or a folder of such folders, one a "
        "category: all are evaluated and averaged, each counting once, and the papers' figures "
        "stand beside",
    )
    parser.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="only these images: paths relative to DATA, one a line",
    )
    add_pixel_format_argument(
        parser, "Default: that of a run's training images; for a plan, images of 8 bits"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write report.html (index.html and <category>.html over categories) and results.json "
        "here; each page is one file that needs no network",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print one JSON document instead of the table, or write it to FILE beside the table",
    )
    group = parser.add_argument_group("intervals")
    group.add_argument(
        "--resamples",
        type=int,
        default=1000,
        metavar="N",
        help="draws of the bootstrap that the 95 %% intervals come from: images are drawn with "
        "replacement, good and defective ones apart; 0 leaves intervals out (default 1000)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the draws (default 0)"
    )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.out is not None:
        make_folder(args.out)
    how = Bootstrap(args.resamples, args.seed)
    categories = find_categories(args.data)
    if categories:
        document, text, page = run_categories(args, categories, how)
    else:
        if not (args.data / "ground_truth").is_dir():
            print(f"{args.data} has no ground_truth/: image metrics only", file=sys.stderr)
        pixel_format = format_of(args.model, args.pixel_format)
        engine = load_engine(args)
        document = evaluate_plan(engine, args.data, args.list, how, pixel_format=pixel_format)
        text, page = lines(document), "report.html"
        if args.out is not None:
            write_report(args.out / page, engine, document)
    if args.out is not None:
        write_json(args.out / "results.json", document)
    if args.json == "-":
        print(json.dumps(document, indent=1, allow_nan=False))
        return 0
    if args.json is not None:
        write_json(Path(args.json), document)
    print("\n".join(text))
    if args.out is not None:
        print(f"report: {args.out / page}")
    return 0


def run_categories(
    args: argparse.Namespace, names: list[str], how: Bootstrap
) -> tuple[dict[str, Any], list[str], str]:
    """Evaluate every category -> (document, text, name of the page)."""
    if args.list is not None:
        raise ArgumentError("--list names images of one data set; DATA holds several categories")
    if not args.model.is_dir() or (args.model / "config.json").is_file():
        raise ArgumentError(
            f"{args.data} holds {len(names)} categories ({', '.join(names[:3])}, ...) and "
            f"{args.model} is one model: name a folder of <category>.plan files or <category>/ "
            f"runs, or one category, --data {args.data / names[0]}"
        )
    models, missing = find_models(args.model, names)
    for name in missing:
        print(f"{name}: no model in {args.model}, left out", file=sys.stderr)
    # Every set is looked through before hours go into the first.
    problems, formats = [], {}
    for name, model in models.items():
        try:
            formats[name] = format_of(model, args.pixel_format)
            samples = evaluate.find_samples(args.data / name, pixel_format=formats[name])
        except (DataError, ModelError) as error:
            problems.append(str(error))
        else:
            if all(mask is None for _, _, mask in samples):
                print(f"{name}: no masks, so no pixel metrics", file=sys.stderr)
    refuse(problems, str(args.data))
    results = {}
    for done, (name, model) in enumerate(models.items(), 1):
        engine = load_engine(argparse.Namespace(**{**vars(args), "model": model}))
        title = f"{name}, {done} of {len(models)}:"
        own = functools.partial(_titled, title)
        results[name] = evaluate_plan(engine, args.data / name, None, how, own, formats[name])
        if args.out is not None:
            write_report(args.out / f"{name}.html", engine, results[name])
    means = averages(results)
    document = {
        "data": str(args.data),
        "models": str(args.model),
        "missing": missing,
        "means": means,
        "categories": results,
    }
    if args.out is not None:
        pages = {name: f"{name}.html" for name in results}
        parts = [
            report.paragraph(f"{args.model} on {args.data}", dim=True),
            *report.overview_parts(document, pages),
        ]
        report.write_page(
            args.out / "index.html", f"Evaluation over {len(results)} categories", parts
        )
    return document, category_lines(document), "index.html"


def _titled(title: str, items: Any, what: str) -> Any:
    return bar(items, f"{title} {what}")


def format_of(model: Path, asked: str) -> str:
    """Return the pixel format of the images: what was asked for, or what a run was trained on."""
    if not model.is_dir():
        return asked
    from adfast.models import read_run_info, run_pixel_format

    return run_pixel_format(model, read_run_info(model), asked)


def load_engine(args: argparse.Namespace) -> Any:
    """Load the plan, or the run, named on the command line."""
    if args.model.is_dir():
        if args.precision in ("bf16", "int8"):
            raise ArgumentError(f"{args.model} is a training run: it is evaluated in f32")
        if args.public_key is not None:
            raise ArgumentError(f"{args.model} is a training run; plans alone are signed")
        from adfast.run_engine import RunEngine

        return RunEngine(args.model, args.threads, bar)
    import adfast

    return adfast.load(args.model, **engine_options(args))


def evaluate_plan(
    engine: Any,
    root: Path,
    only: Path | None = None,
    how: Bootstrap | None = None,
    track: Track = bar,
    pixel_format: str = "",
) -> dict[str, Any]:
    """Evaluate with a bar on a terminal, and add what was run to the result."""
    engine.warmup(3)
    result = evaluate.evaluate(
        engine, root, only=only, how=how, track=track, pixel_format=pixel_format
    )
    info = engine.info
    kept = ("runtime", "model", "name", "precision", "isa", "threads")
    return {
        "provenance": {
            "file": str(info.get("plan") or info.get("run")),
            "sha256": _sha256(info),
            "data": str(root),
            "list": only and str(only),
            "threshold": describe(info["calibration"]) if info.get("calibration") else None,
            "adfast": __version__,
            "machine": machine(),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        },
        "engine": {"runtime": "adfast engine"} | {k: info[k] for k in kept if k in info},
        **result,
    }


def _sha256(info: dict[str, Any]) -> str | None:
    """Hash the plan, or the run's checkpoint; None when there is no such file."""
    path = Path(info["run"], "best.safetensors") if "run" in info else Path(info["plan"])
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def write_report(path: Path, engine: Any, result: dict[str, Any]) -> None:
    """Write the page of one evaluation."""
    made, info = result["provenance"], result["engine"]
    data = made["list"] or made["data"]
    what = f"{info.get('model')} {Path(made['file']).name}, computed by {info['runtime']}"
    parts = [
        report.paragraph(f"{what}, in {info.get('precision')}, on {data}", dim=True),
        *report.evaluation_parts(engine, Path(made["data"]), result),
        *report.provenance_parts(result),
    ]
    report.write_page(path, f"Evaluation of {Path(made['file']).stem}", parts)


def lines(result: dict[str, Any]) -> list[str]:
    """Lay a result out as text."""
    values, verdicts, pixels = result["metrics"], result["verdicts"], result["pixels"]
    percent, made = report.percent, result["bootstrap"]
    interval = f"{100 * made['level']:g} % interval" if made["resamples"] else "no interval"
    out = [f"{'percent':<22}{'':>7}   {interval}"]
    for name, title in report.METRICS.items():
        if values[name] is not None:
            own = report.interval(result["intervals"].get(name))
            out.append(f"{title:<22}{percent(values[name]):>7}   {own}".rstrip())
    if values["pixel_auroc"] is None:
        out.append("pixel metrics: none, there are no masks")
    else:
        out.append(f"pixels: {pixels['area']}, {pixels['regions']} defect regions")
    if pixels["empty_masks"]:
        out.append(
            f"{len(pixels['empty_masks'])} defective images with an empty mask "
            "are left out of the pixel metrics"
        )
    out.append("")
    header = f"{'class':<16}{'images':>7}{'image AUROC':>23}{'AP':>7}"
    out.append(header + f"{'pixel AUROC':>13}{'AUPRO':>7}{'median score':>14}{'anomalous':>11}")
    for entry in result["classes"]:
        called = entry["called_anomalous"]
        own = report.interval(entry["intervals"].get("image_auroc"))
        out.append(
            f"{entry['label']:<16}{entry['images']:>7}{percent(entry['image_auroc']):>7}{own:>16}"
            f"{percent(entry['image_ap']):>7}{percent(entry['pixel_auroc']):>13}"
            f"{percent(entry['aupro']):>7}{number(entry['score_median']):>14}"
            f"{'–' if called is None else called:>11}"
        )
    out.append("")
    if verdicts is None:
        out.append(
            "no threshold, so scores only and no verdicts: adfast build sets one from good images"
        )
    else:
        images = result["images"]
        out.append(
            f"at the plan's threshold {number(verdicts['threshold'])}: "
            f"{verdicts['false_alarms']} false alarms in {images['good']} good images "
            f"({percent(verdicts['false_alarm_rate'])} %, interval "
            f"{report.interval(verdicts['false_alarm_interval'])}), "
            f"{verdicts['misses']} misses in {images['defective']} defective ones "
            f"({percent(verdicts['miss_rate'])} %, interval "
            f"{report.interval(verdicts['miss_interval'])})"
        )
    latency = result["latency_ms"]
    tails = [f"{key} {latency[key]:.2f}" for key in ("p90", "p99") if latency[key] is not None]
    tails.append(f"longest {latency['max']:.2f}")
    out.append(f"latency: median {latency['median']:.2f} ms, {', '.join(tails)} ms")
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["seconds"].items())
    out.append(f"time: {spent} ({made['resamples']} draws)")
    return out


def category_lines(document: dict[str, Any]) -> list[str]:
    """Lay an evaluation over categories out as text, the papers' means below it."""
    percent = report.percent
    columns = ("image_auroc", "pixel_auroc", "aupro")
    out = [f"{'percent':<18}{'image AUROC':>22}{'pixel AUROC':>22}{'AUPRO, FPR ≤ 0.3':>22}"]

    def line(title: str, found: dict[str, Any]) -> str:
        cells = (
            f"{percent(found['metrics'][name]):>7}"
            f"{report.interval(found['intervals'].get(name)):>15}"
            for name in columns
        )
        return f"{title:<18}" + "".join(cells)

    out += [line(name, found) for name, found in document["categories"].items()]
    out.append("")
    out += [line(title, found) for title, found in document["means"].items()]
    models = {found["engine"]["model"] for found in document["categories"].values()}
    whole = document["means"]["mean of all"]
    papers: dict[str, dict[str, float]] = {}
    for metric in columns:
        for each in published.find(models, metric):
            value = each.over(having(document["categories"], whole["categories"], metric))
            if value is not None:
                papers.setdefault(each.name, {})[metric] = value
    for name, values in papers.items():
        cells = (
            f"{values[m]:>7.1f}{'':15}" if m in values else f"{'–':>7}{'':15}" for m in columns
        )
        out.append((f"{name + ', paper':<18}" + "".join(cells)).rstrip())
    if document["missing"]:
        out.append("")
        out.append(f"no model for {', '.join(document['missing'])}: not in the means")
    return out
