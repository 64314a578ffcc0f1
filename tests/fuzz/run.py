"""Run the fuzzers one after the other: python tests/fuzz/run.py BUILD [--seconds N] [--write].

Inputs that they find interesting stay in BUILD/grown and are where the next run begins; what fails
is in BUILD/found. --write records it in bench/results/fuzz.json. Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LONGEST = {"plan": 20_000, "frame": 256}


def run(name: str, build: Path, seconds: int) -> dict:
    """Fuzz one target and return what libFuzzer says of it."""
    grown, found = build / "grown" / name, build / "found"
    for folder in (grown, found):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    command = [
        build / f"tests/fuzz/fuzz_{name}", f"-max_total_time={seconds}", "-print_final_stats=1",
        f"-max_len={LONGEST[name]}", "-timeout=25", "-rss_limit_mb=4096",
        f"-artifact_prefix={found}/", grown, build / "corpus" / name, HERE / "findings" / name,
    ]  # fmt: skip
    command = [str(part) for part in command]
    environment = os.environ | {
        # One thread: what one frame does is what is looked at.
        "OMP_NUM_THREADS": "1",
        "ADFAST_FUZZ_PLANS": str(build / "corpus"),
        # oneDNN's own memory is kept until the process ends.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2048",
    }
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip())
        if re.match(r"#\d+\s+(INITED|pulse|DONE)", line) or not line.startswith("#"):
            print(line, end="", flush=True)
    code = process.wait()
    text = "\n".join(lines)
    states = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)", text, re.M)
    last = [int(number) for number in states[-1]] if states else [0] * 4
    total = re.search(r"\((\d+) PCs\)", text)
    stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)", text, re.M))
    return {
        "target": f"fuzz_{name}",
        "command": " ".join(os.path.relpath(p, ROOT) if "/" in p and p[0] != "-" else p
                            for p in command if not p.startswith("-artifact")),
        "exit_code": code,
        "seconds": seconds,
        "executions": int(stats.get("number_of_executed_units", last[0])),
        "seeds": len(list((build / "corpus" / name).iterdir())),
        "edges": last[1],
        "edges_of": sum(int(n) for n in re.findall(r"Loaded \d+ PC tables \((\d+) PCs\)", text))
        or (int(total[1]) if total else 0),
        "features": last[2],
        "corpus": last[3],
        "peak_rss_mb": int(stats.get("peak_rss_mb", 0)),
        "failures": sorted(path.name for path in set(found.iterdir()) - before),
    }  # fmt: skip


def commit() -> str:
    """Return the commit, and whether there are changes."""
    words = ["git", "-C", str(ROOT)]
    head = subprocess.run(
        [*words, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    # The results themselves are no change of what was run.
    changed = subprocess.run(
        [*words, "status", "--porcelain", "--", ".", ":!bench/results"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return head + ("+changes" if changed else "")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--target", choices=("plan", "frame"), action="append")
    parser.add_argument("--write", action="store_true", help="record it in bench/results/fuzz.json")
    args = parser.parse_args()
    build = args.build.resolve()
    subprocess.run([sys.executable, HERE / "make_corpus.py", build / "corpus"], check=True)
    stamp = {"commit": commit(), "date": datetime.date.today().isoformat()}
    runs = [run(name, build, args.seconds) for name in args.target or ("plan", "frame")]
    for each in runs:
        print(json.dumps(each, indent=1))
    if args.write:
        path = ROOT / "bench/results/fuzz.json"
        document = json.loads(path.read_text()) if path.exists() else {"runs": []}
        kept = [old for old in document["runs"] if old["target"] not in {r["target"] for r in runs}]
        from adfast.benchmark import machine

        document["runs"] = kept + [each | stamp | {"machine": machine()} for each in runs]
        path.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if any(each["exit_code"] for each in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
