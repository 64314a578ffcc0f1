"""Build and run the C++ tests under the sanitizers, and record what they found.

    python bench/sanitizers.py [--preset asan] [--preset ubsan] [--preset tsan] [--dry]

Each preset of CMakePresets.json is configured, built and run with ctest, as CONTRIBUTING.md says.
Each builds the library anew: it takes long on two cores. Exit code 1: a test failed, or a
sanitizer spoke.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from record import commit

from adfast.benchmark import machine
from adfast.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "sanitizers.json"
SANITIZERS = {
    "asan": "AddressSanitizer and UndefinedBehaviorSanitizer",
    "ubsan": "UndefinedBehaviorSanitizer",
    "tsan": "ThreadSanitizer",
}


def run(preset: str) -> dict:
    """Build a preset, run its tests and return what came of it."""
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    report = ROOT / "build" / preset / "tests.xml"
    report.unlink(missing_ok=True)
    for command in (
        ["cmake", "--preset", preset, f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", "--preset", preset],
    ):
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    begin = time.monotonic()
    # Every report of a sanitizer ends the test that met it.
    test = ["ctest", "--preset", preset, "--output-junit", str(report)]
    code = subprocess.run(test, cwd=ROOT, env=environment).returncode
    suite = ElementTree.parse(report).getroot()
    cases = suite.findall("testcase")
    return {
        "preset": preset,
        "sanitizer": SANITIZERS[preset],
        "command": f"cmake --preset {preset} && cmake --build --preset {preset} && "
        f"ctest --preset {preset}",
        "exit_code": code,
        "seconds": round(time.monotonic() - begin),
        "tests": [case.get("name") for case in cases],
        "failed": [case.get("name") for case in cases if case.get("status") == "fail"],
        "skipped": int(suite.get("skipped", 0)) + int(suite.get("disabled", 0)),
    }


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--preset", choices=SANITIZERS, action="append", help="default: all")
    parser.add_argument("--dry", action="store_true", help="write no results")
    args = parser.parse_args()
    stamp = {"commit": commit(), "date": datetime.date.today().isoformat(), "machine": machine()}
    bad = False
    for preset in args.preset or SANITIZERS:
        result = run(preset)
        bad |= result["exit_code"] != 0
        print(json.dumps(result, indent=1))
        if args.dry:
            continue
        document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": []}
        kept = [old for old in document["runs"] if old["preset"] != preset]
        document["runs"] = [*kept, result | stamp]
        with atomic_write(RESULTS, "w") as file:
            file.write(json.dumps(document, indent=1) + "\n")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
