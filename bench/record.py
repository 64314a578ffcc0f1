"""Where figures come from: commit, machine, versions; and the file of the races' results."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

import adfast
from adfast.benchmark import machine
from adfast.files import atomic_write

RESULTS = Path(__file__).parent / "results" / "end_to_end.json"


def commit() -> str:
    root = Path(__file__).parent.parent
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    dirty = subprocess.run([*git, "status", "--porcelain", "csrc", "kernels"], capture_output=True)
    return (head.stdout.strip() or "unknown") + ("+changes" if dirty.stdout else "")


def machine_key(host: dict) -> str:
    """Name a kind of machine: runs on another kind stand beside its results, not over them."""
    return f"{host['processor']}, {host['cores']} cores, {' '.join(host['instructions'])}"


def read_results() -> dict:
    if not RESULTS.exists():
        return {"machines": {}}
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def save(change) -> dict:
    """Apply `change` to this machine's report and write it; return the report."""
    results = read_results()
    host = machine()
    report = results["machines"].setdefault(machine_key(host), {"models": {}})
    packages = ("torch", "onnxruntime", "openvino", "nncf", "numpy")
    report |= {
        "command": "make bench",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": host,
        "threads": len(os.sched_getaffinity(0)),
        "versions": {"adfast": adfast.__version__}
        | {p: version for p in packages if (version := installed(p))},
    }
    change(report)
    RESULTS.parent.mkdir(exist_ok=True)
    with atomic_write(RESULTS, "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    return report


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
