"""Write the tables of README.md and docs/, and the chart, from the files under bench/results.

    python bench/tables.py [--check]

Each table stands between `<!-- table: NAME -->` and `<!-- end -->`; --check only compares.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import figures

from adfast.report import charts

ROOT = Path(__file__).parent.parent
SOAK_OUTCOMES = (
    *("completed", "failed", "dropped_oldest", "dropped_newest", "rejected", "expired"),
    *("discarded", "queued", "working"),
)
RESULTS = ROOT / "bench" / "results"
SPEED = "end_to_end.json"
PRECISIONS = ("f32", "bf16", "int8")
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "nvidia.md")
CHART = ROOT / "docs" / "speed.svg"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def source(report: dict, file: str) -> str:
    host = report["machine"]
    return (
        f"Measured on {host['processor']}, {host['cores']} cores, {report['date']}, commit "
        f"{report['commit']}, by `{report['command']}` "
        f"([bench/results/{file}](bench/results/{file}))."
    )


def _cores(count: int) -> str:
    return "one core" if count == 1 else f"{count} cores"


def machines() -> list[dict]:
    """Return the reports of end_to_end.json, the latest first.

    Behind them those of processors without products in bf16, as most of what is asked for is in
    bf16, and last those that are rough.
    """
    reports = json.loads((RESULTS / "end_to_end.json").read_text())["machines"].values()
    latest = sorted(reversed(reports), key=lambda report: report["date"], reverse=True)

    def rank(report: dict) -> tuple[bool, bool]:
        narrow = "bf16" in report["machine"].get("instructions", ())
        return bool(figures.disturbances(report)), not narrow

    return sorted(latest, key=rank)


def speed_source(report: dict) -> str:
    host = report["machine"]
    commits = ", ".join(sorted({entry["commit"] for entry in report["models"].values()}))
    kind = "/".join(host.get("instructions", ()))
    name = f"{host['processor']} ({kind})" if kind else host["processor"]
    date = max(entry.get("date", report["date"]) for entry in report["models"].values())
    host = {**host, "processor": name}
    text = source({**report, "machine": host, "commit": commits, "date": date}, SPEED)
    reasons = figures.disturbances(report)
    if reasons:
        text += f" The machine was busy with other work ({', '.join(reasons)}): figures are rough."
    return text


def milliseconds(times: dict, name: str) -> str:
    """Return the engine's time from frame to map, or a peer's network's."""
    found = times.get(name)
    if found is None:
        return "–"
    return f"{found.get('network', found.get('end_to_end'))['median_ms']:.1f}"


def ratios(found: dict, precision: str) -> str:
    """Return the ratios to the best peer: its network alone, and end to end."""
    row = found["ratios"].get(precision)
    network = row and row["network"]
    if not network:
        return "–"
    whole = row.get("end_to_end")
    return f"{network['ratio']:.2f}x" + (f" ({whole['ratio']:.2f}x)" if whole else "")


def speed() -> str:
    """Return the engine beside the best peer, on the latest quiet machine of each kind."""
    quiet = [report for report in machines() if not figures.disturbances(report)]
    kinds: dict[tuple, dict] = {}
    for report in quiet or machines()[:1]:
        kinds.setdefault(tuple(report["machine"].get("instructions", ())), report)
    parts = []
    for report in kinds.values():
        models = single_frames(report)
        # Without its instructions, a plan in bf16 runs in f32 unless someone insists.
        narrow = "bf16" in report["machine"].get("instructions", ("bf16",))
        measured = (p for p in PRECISIONS if any(p in f["ratios"] for f in models.values()))
        shown = [p for p in measured if p != "bf16" or narrow]
        heads = (f"adfast {p} | best peer | ratio" for p in shown)
        lines = ["| Model | " + " | ".join(heads) + " |", "|---" * (3 * len(shown) + 1) + "|"]
        for title, found in models.items():
            cells = [cell for p in shown for cell in beside_best(found, p)]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
        parts.append("\n".join([*lines, "", rounds_and_source(report)]))
    return "\n\n".join(parts)


def beside_best(found: dict, precision: str) -> tuple[str, str, str]:
    """Return the engine's milliseconds, those of the best peer's network, and the ratio."""
    network = found["ratios"].get(precision, {}).get("network")
    if network is None:
        return "–", "–", "–"
    times, peer = found["times"], network["best_peer"]
    ours = milliseconds(times, f"adfast {precision}")
    return ours, f"{milliseconds(times, peer)}, {peer}", ratios(found, precision)


def contestants() -> str:
    """Return the times of all contestants, a table for each machine."""
    parts = []
    for report in machines():
        models = single_frames(report)
        names = list(dict.fromkeys(name for found in models.values() for name in found["times"]))
        kinds = [p for p in PRECISIONS if f"adfast {p}" in names]
        lines = ["| Model | " + " | ".join([*names, *(f"{p} ratio" for p in kinds)]) + " |"]
        lines.append("|---" * (len(names) + len(kinds) + 1) + "|")
        for title, found in models.items():
            cells = [milliseconds(found["times"], name) for name in names]
            cells += [ratios(found, p) for p in kinds]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
        link = rounds_and_source(report).replace("(bench/", "(../bench/")
        parts.append("\n".join([*lines, "", link]))
    return "\n\n".join(parts)


def single_frames(report: dict) -> dict[str, dict]:
    """Return what was measured of each model at batch 1."""
    return {t: e["batch1"] for t, e in report["models"].items() if "batch1" in e}


def rounds_and_source(report: dict) -> str:
    rounds = [found["rounds"] for found in single_frames(report).values()]
    few, many = min(rounds), max(rounds)
    several = f"{few} to {many}" if few < many else str(few)
    return f"Milliseconds, median of {several} rounds. {speed_source(report)}"


def tails() -> str:
    """Return what a busy core does to the latency, a table for each machine where it was seen."""
    parts = []
    for report in machines():
        rows = [
            (title, name, found)
            for title, by_name in report.get("busy", {}).items()
            for name, found in by_name.items()
            if found["p99_over_quiet_median"] is not None
        ]
        if not rows:
            continue
        lines = ["| Model | | quiet, median | beside it, median | p99 | over quiet |"]
        lines.append("|---" * 6 + "|")
        for title, name, found in rows:
            times = [found["quiet"]["median_ms"], found["busy"]["median_ms"]]
            times.append(found["busy"]["p99_ms"])
            cells = [f"{ms:.1f} ms" for ms in times]
            cells.append(f"{found['p99_over_quiet_median']:.1f}x")
            lines.append(f"| {title} | {name} | " + " | ".join(cells) + " |")
        commits = ", ".join(sorted({found["commit"] for _, _, found in rows}))
        dates = [found["date"] for _, _, found in rows]
        host = report["machine"]
        lines += [
            "",
            f"Measured on {host['processor']} ({'/'.join(host['instructions'])}), "
            f"{host['cores']} cores, {span(dates)}, commit {commits}, by `python "
            "bench/end_to_end.py --busy` ([bench/results/end_to_end.json]"
            "(../bench/results/end_to_end.json)).",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def gpu() -> str:
    """Return the CUDA backend's table, a part for each card."""
    parts = []
    for report in json.loads((RESULTS / "gpu.json").read_text())["cards"].values():
        lines = [
            "| Model | adfast f16 | bf16 | f32 | network (f16) | best PyTorch f16 | its network "
            "| ratio | network |"
        ]
        lines.append("|---" * 9 + "|")
        for title, entry in report["models"].items():
            times = {name: found["median_ms"] for name, found in entry["latency"].items()}
            peers = {name: ms for name, ms in times.items() if name.startswith("PyTorch")}
            networks = {name: entry["network_ms"][name] for name in peers}
            best, ours = min(peers, key=peers.get), entry["network_ms"]["adfast f16"]
            cells = [
                f"{times.get(f'adfast {p}', float('nan')):.2f}" for p in ("f16", "bf16", "f32")
            ]
            cells += [f"{ours:.2f}", f"{peers[best]:.2f} ({best.split()[1]})"]
            theirs = min(networks.values())
            cells += [f"{theirs:.2f}", f"{peers[best] / times['adfast f16']:.2f}x"]
            lines.append(f"| {title} | " + " | ".join([*cells, f"{theirs / ours:.2f}x"]) + " |")
        commits = ", ".join(sorted({entry["commit"] for entry in report["models"].values()}))
        card = report["card"]
        lines += [
            "",
            "Milliseconds at batch 1, from a frame to its map in host memory, median. "
            f"Measured on one {card['name']} (PyTorch {card['torch']}, cuDNN {card['cudnn']}), "
            f"{report['date']}, commit {commits}, by `python bench/gpu.py` "
            "([bench/results/gpu.json](../bench/results/gpu.json)).",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def gpu_bounds() -> str:
    """Return, for each card, what a frame's time in f16 is beside what the card's rates allow.

    Of the networks only the longest steps were kept: one by one, so that what launching costs is in
    them.
    """
    gflop = {}
    for report in machines():
        gflop |= {title: entry["gflop"] for title, entry in report["models"].items()}
    parts = []
    for report in json.loads((RESULTS / "gpu.json").read_text())["cards"].values():
        card = report["card"]
        lines = [
            "| Model | copies, frame and map | network | its operations at the card's rate "
            "| longest step | at the card's rates |"
        ]
        lines.append("|---" * 6 + "|")
        for title, entry in report["models"].items():
            stages = entry["stages_ms"]["adfast f16"]
            around, network = stages["frame"] + stages["map"], stages["network"]
            step = entry["profile"]["adfast f16"][0]
            # Gigaflops over TFLOP/s, and bytes over GB/s, in milliseconds.
            bound = max(
                step["gflop"] / card["f16_tflop_s"], step["bytes"] / card["copy_gb_s"] / 1e6
            )
            cells = [
                f"{around:.2f} ms ({100 * around / stages['total']:.0f} %)",
                f"{network:.2f} ms",
                f"{gflop[title] / card['f16_tflop_s']:.3f} ms",
                f"`{step['name']}`, {1e3 * step['ms']:.0f} µs",
                f"{1e3 * bound:.1f} µs",
            ]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines += [
            "",
            f"{card['name']}: {card['f16_tflop_s']} TFLOP/s in f16 and {card['copy_gb_s']} GB/s, "
            f"measured on {report['date']}; commits and source as above.",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def batch() -> str:
    parts = []
    for report in machines():
        models = {
            t: e["batch8"]["times"]
            for t, e in report["models"].items()
            if "times" in e.get("batch8", {})
        }
        if not models:
            continue
        names = list(dict.fromkeys(name for times in models.values() for name in times))
        lines = ["| Model | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for title, times in models.items():
            rates = (
                f"{8e3 / times[name]['end_to_end']['median_ms']:.1f}" if name in times else "–"
                for name in names
            )
            lines.append(f"| {title} | " + " | ".join(rates) + " |")
        lines += ["", speed_source(report)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or "Not measured yet."


def targets() -> str:
    report = machines()[0]
    lines = ["| Target | Measured | |", "|---|---|---|"]
    for target in figures.targets(report):
        cases = ", ".join(f"{case.name} {case.measured}" for case in target.cases)
        lines.append(f"| {target.text} | {cases} | {figures.verdict(target)} |")
    return "\n".join([*lines, "", speed_source(report)])


def chart() -> str:
    """Draw the latest machine's times of batch 1, the engine's whole and the peers' networks.

    Of each runtime the faster of f32 and bf16, and int8.
    """
    report = machines()[0]
    groups = []
    for title, entry in report["models"].items():
        times = entry.get("batch1", {}).get("times", {})
        best: dict[tuple[str, bool], tuple[str, float, bool]] = {}
        for name, both in times.items():
            runtime, precision = name.rsplit(" ", 1)
            bar = (name, both.get("network", both.get("end_to_end"))["median_ms"])
            kind = runtime, precision == "int8"
            if runtime != "PyTorch" and (kind not in best or bar[1] < best[kind][1]):
                best[kind] = (*bar, runtime == "adfast")
        groups.append((title, list(best.values())))
    return charts.standalone(charts.bars("Milliseconds a frame, less is better", groups)) + "\n"


def stream() -> str:
    """Return the latency of cameras' frames, a row for each model and load."""
    path = RESULTS / "stream.json"
    if not path.exists():
        return "Not measured yet."
    report = json.loads(path.read_text())
    models = report["models"].values()
    counts = sorted({run["cameras"] for entry in models for run in entry["runs"]})
    titles = [f"{count} camera{'s' if count > 1 else ''}" for count in counts]
    lines = ["| Model | Frames a second | " + " | ".join([*titles, "Dropped"]) + " |"]
    lines.append("|---" * (len(counts) + 3) + "|")
    for title, entry in report["models"].items():
        for load in dict.fromkeys(run["load"] for run in entry["runs"]):
            runs = {run["cameras"]: run for run in entry["runs"] if run["load"] == load}
            rate = f"{load * entry['throughput']:.1f} ({100 * load:.0f} %)"
            cells = [camera_latency(runs.get(count)) for count in counts]
            dropped, all_of = (
                sum(run[name] for run in runs.values()) for name in ("dropped", "submitted")
            )
            name = f"{title} {entry['precision']}"
            cells.append(f"{dropped:,} of {all_of:,}")
            lines.append(f"| {name} | {rate} | " + " | ".join(cells) + " |")
    some = next(iter(models))
    frame = "x".join(map(str, some["frame"][:2]))
    busy = max(entry["load_average_before"] for entry in models)
    lines += [
        "",
        f"Milliseconds from submitting a frame of {frame} pixels to its result: median, 90 % and "
        "99 % of the frames that have one (–: not seen). The rate is that of all cameras together, "
        "in brackets its share of the stream's throughput; a queue of "
        f"{some['capacity']} frames drops the oldest; {report['seconds']:g} s each. "
        + source(report, "stream.json"),
    ]
    # The models before it leave a load of about the cores behind.
    if busy > report["machine"]["cores"] + 1:
        lines[-1] += f" The machine was busy with other work (load {busy:.1f}): figures are rough."
    return "\n".join(lines)


def camera_latency(run: dict | None) -> str:
    """Write the median and the tail of a run's latency."""
    if run is None or run["latency_ms"] is None:
        return "–"
    values = (run["latency_ms"][name] for name in ("median", "p90", "p99"))
    return " / ".join("–" if value is None else f"{value:.1f}" for value in values)


def accuracy() -> str:
    runs = json.loads((RESULTS / "mtd.json").read_text())["runs"]
    lines = [
        "| Model | Weights | Split | Training | Image AUROC | Pixel AUROC | AUPRO | F1-max |"
        " untrained: image, pixel AUROC | all random | engine f32 to PyTorch |"
        " bf16 to f32: Spearman, AUROC change |",
        "|---" * 12 + "|",
    ]
    for entry in runs:
        m, found, low = entry["metrics"], entry["parity"], entry["bf16"]
        untrained = both(entry.get("untrained"))
        # Without weights to begin with, untrained is all random.
        random = both(entry["random"]) if "random" in entry else untrained
        lines.append(
            f"| {entry['model']} | {entry['weights']} | {entry['split']} | "
            f"{entry['train_images']} images, {entry['epochs']} epochs{minutes(entry)} | "
            f"{percent(m['image_auroc'])} | {percent(m['pixel_auroc'])} | {percent(m['aupro'])} | "
            f"{percent(m['f1_max'])} | {untrained} | {random} | "
            f"{found['engine_f32']['map_max_rel']:.1e} | "
            f"{low['spearman']:.4f}, {100 * low['image_auroc_change']:+.2f} |"
        )
    kinds = [e[k] for e in runs for k in ("untrained", "random") if k in e]
    lines += ["", sources([*runs, *kinds], "python bench/accuracy.py", "mtd.json")]
    return "\n".join(lines)


def minutes(entry: dict) -> str:
    """Write how long a training took, where it is known."""
    return f", {entry['train_minutes']:.0f} min" if "train_minutes" in entry else ""


def trust() -> str:
    """Say what the soak and the fuzzers found."""
    soak = json.loads((RESULTS / "soak.json").read_text())
    totals, memory = soak["totals"], soak["memory"]
    lost = totals["submitted"] - sum(
        count for name, count in totals.items() if name in SOAK_OUTCOMES
    )

    def rate(part: dict) -> str:
        low, high = part["interval"]
        return f"{part['slope_mb_per_hour']:+.2f} ({low:+.2f} to {high:+.2f})"

    lines = [
        f"{soak['minutes']:g} minutes of it: {totals['submitted']:,} frames through "
        f"{totals['streams']:,} streams, {lost} unaccounted for, {totals['failed']} failed; "
        f"{totals['plans loaded']:,} plans loaded, {totals['broken plans refused']:,} broken ones "
        f"and {totals['bad frames refused']:,} bad frames refused; resident memory in the second "
        f"half {rate(memory['at_rest'])} MB an hour at rest, {rate(memory['busy'])} busy."
    ]
    for run in json.loads((RESULTS / "fuzz.json").read_text())["runs"]:
        found = len(run["failures"])
        lines.append(
            f"`{run['target']}` under AddressSanitizer and UndefinedBehaviorSanitizer: "
            f"{run['executions']:,} inputs in {run['seconds']:,} s, "
            f"{found or 'no'} failure{'s' if found != 1 else ''}."
        )
    sanitizers = json.loads((RESULTS / "sanitizers.json").read_text())["runs"]
    for run in sanitizers:
        lines.append(
            f"The C++ tests under {run['sanitizer']}: {len(run['tests'])}, "
            f"{len(run['failed']) or 'none'} failed."
        )
    lines.append(sources([soak], "make soak", "soak.json"))
    lines.append(sources(sanitizers, "python bench/sanitizers.py", "sanitizers.json"))
    return "\n".join(lines)


def both(values: dict | None) -> str:
    """Write the image and the pixel AUROC of an untrained model."""
    return ", ".join(percent((values or {}).get(k)) for k in ("image_auroc", "pixel_auroc"))


def sources(entries: list[dict], command: str, file: str) -> str:
    """Say where figures of several machines and days are from."""
    hosts: dict[str, list[dict]] = {}
    for entry in sorted(entries, key=lambda entry: (entry["date"], entry["commit"])):
        host = entry["machine"]
        hosts.setdefault(f"{host['processor']}, {_cores(host['cores'])}", []).append(entry)
    where = "; ".join(
        f"{host}, {span([e['date'] for e in found])}, commit "
        + ", ".join(dict.fromkeys(e["commit"] for e in found))
        for host, found in hosts.items()
    )
    return f"Measured on {where}; by `{command}` ([bench/results/{file}](bench/results/{file}))."


def span(dates: list[str]) -> str:
    return dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"


def cifar10() -> str:
    report = json.loads((RESULTS / "cifar10.json").read_text())
    words = [
        f"{name} {percent(entry['image_auroc'])} (untrained {percent(entry['untrained'])}, "
        f"{entry['train_images']} images, {entry['epochs']} epochs)"
        for name, entry in report["classes"].items()
    ]
    return (
        f"A smoke figure, not the paper's: {report['model']} in ADTR's protocol for CIFAR-10, on "
        f"{sum(report['images'].values())} of its 60000 images, image AUROC: {'; '.join(words)}. "
        + source(report, "cifar10.json")
    )


def parity() -> str:
    report = json.loads((RESULTS / "parity.json").read_text())
    lines = ["| Model | Input | Parameters | ONNX Runtime | adfast f32 | adfast bf16 |"]
    lines.append("|---" * 6 + "|")
    for model, entry in report["models"].items():
        cells = [f"{entry[k]['map_max_rel']:.1e}" for k in ("onnxruntime", "engine_f32")]
        cells.append(f"{entry['engine_bf16']['map_max_rel']:.1e}")
        size = "x".join(map(str, entry["crop"]))
        millions = f"{entry['parameters'] / 1e6:.1f} M"
        lines.append(f"| {model} | {size} | {millions} | " + " | ".join(cells) + " |")
    lines += ["", source(report, "parity.json")]
    return "\n".join(lines)


def tactics() -> str:
    reports = json.loads((RESULTS / "tactics.json").read_text())["machines"].values()
    blocks = []
    for report in sorted(reports, key=lambda report: report["date"], reverse=True):
        lines = ["| Model | Precision | oneDNN | as chosen | | maps differ by |", "|---" * 6 + "|"]
        for model, precisions in report["models"].items():
            for precision, entry in precisions.items():
                interval = entry["interval"]
                ends = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
                lines.append(
                    f"| **{model}** | {precision} | {entry['direct_ms']:.1f} ms | "
                    f"{entry['own_ms']:.1f} ms | **{entry['ratio']:.2f}x**{ends} | "
                    f"{entry['map_difference']:.0e} |"
                )
                for kernel, sums in entry["kernels"].items():
                    lines.append(
                        f"| {sums['steps']} steps, `{kernel}` | {precision} | "
                        f"{sums['direct_ms']:.1f} ms | {sums['own_ms']:.1f} ms | "
                        f"{sums['direct_ms'] / sums['own_ms']:.2f}x | |"
                    )
        link = source(report, "tactics.json").replace("(bench/", "(../bench/")
        blocks.append("\n".join([*lines, "", f"Medians. {link}"]))
    return "\n\n".join(blocks)


def ceilings() -> str:
    """Return what the first machine's ceiling leaves to win, model by model."""
    report = machines()[0]
    lines = [
        "| Model | | adfast | of the ceiling | best peer's network | ratio | at the ceiling "
        "| asked |",
        "|---" * 8 + "|",
    ]
    for b in figures.bounds(report):
        met = " (met)" if b.ratio >= b.asked else ""
        most = "–" if b.share >= 1 else f"{b.at_ceiling:.2f}x"
        if not met and b.share < 1 and b.at_ceiling < b.asked:
            most += " (asked is out of reach)"
        lines.append(
            f"| {b.title} | {b.precision} | {b.ms:.1f} ms | {100 * b.share:.0f} % | "
            f"{b.peer_ms:.1f} ms, {b.peer} | {b.ratio:.2f}x{met} | {most} | {b.asked:g}x |"
        )
    link = speed_source(report).replace("(bench/", "(../bench/")
    return "\n".join([*lines, "", link])


TABLES = {
    "speed": speed,
    "contestants": contestants,
    "batch": batch,
    "targets": targets,
    "ceilings": ceilings,
    "tails": tails,
    "parity": parity,
    "accuracy": accuracy,
    "trust": trust,
    "stream": stream,
    "cifar10": cifar10,
    "tactics": tactics,
    "gpu": gpu,
    "gpu_bounds": gpu_bounds,
}


def rendered(text: str) -> str:
    def table(match: re.Match) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", table, text, flags=re.S)


def main() -> int:
    files = {path: rendered(path.read_text(encoding="utf-8")) for path in DOCUMENTS}
    files[CHART] = chart()
    for path, new in files.items():
        if "--check" in sys.argv:
            if not path.exists() or path.read_text(encoding="utf-8") != new:
                print(f"{path.relative_to(ROOT)} is not what bench/results says")
                return 1
        else:
            path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
