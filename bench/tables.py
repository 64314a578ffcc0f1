"""Write the README's tables from the files under bench/results.

    python bench/tables.py [--check]

Each table stands between `<!-- table: NAME -->` and `<!-- end -->`; --check only compares.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def source(report: dict, file: str) -> str:
    host = report["machine"]
    return (
        f"Measured on {host['processor']}, {host['cores']} cores, {report['date']}, commit "
        f"{report['commit']}, by `{report['command']}` "
        f"([bench/results/{file}](bench/results/{file}))."
    )


def speed() -> str:
    report = json.loads((RESULTS / "end_to_end.json").read_text())
    names = list(next(iter(report["models"].values()))["times"])
    lines = ["| Model | " + " | ".join(names) + " | bf16 ratio | f32 ratio |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for model, entry in report["models"].items():
        cells = [f"{entry['times'][name]['median_ms']:.1f}" for name in names]
        cells += [
            f"{entry['ratios'][p]['ratio']:.2f}x {entry['ratios'][p]['best_peer'].split()[0]}"
            for p in ("bf16", "f32")
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    lines += ["", f"Milliseconds, median of {report['rounds']} rounds. "]
    lines[-1] += source(report, "end_to_end.json")
    return "\n".join(lines)


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
            f"{entry['train_images']} images, {entry['epochs']} epochs | "
            f"{percent(m['image_auroc'])} | {percent(m['pixel_auroc'])} | {percent(m['aupro'])} | "
            f"{percent(m['f1_max'])} | {untrained} | {random} | "
            f"{found['engine_f32']['map_max_rel']:.1e} | "
            f"{low['spearman']:.4f}, {100 * low['image_auroc_change']:+.2f} |"
        )
    kinds = [e[k] for e in runs for k in ("untrained", "random") if k in e]
    lines += ["", sources([*runs, *kinds], "python bench/accuracy.py", "mtd.json")]
    return "\n".join(lines)


def both(values: dict | None) -> str:
    """Write the image and the pixel AUROC of an untrained model."""
    return ", ".join(percent((values or {}).get(k)) for k in ("image_auroc", "pixel_auroc"))


def sources(entries: list[dict], command: str, file: str) -> str:
    """Say where figures of several machines and days are from."""
    hosts: dict[str, list[dict]] = {}
    for entry in sorted(entries, key=lambda entry: (entry["date"], entry["commit"])):
        host = entry["machine"]
        hosts.setdefault(f"{host['processor']}, {host['cores']} cores", []).append(entry)
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


TABLES = {"speed": speed, "parity": parity, "accuracy": accuracy, "cifar10": cifar10}


def rendered(text: str) -> str:
    def table(match: re.Match) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", table, text, flags=re.S)


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    new = rendered(text)
    if "--check" in sys.argv:
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
