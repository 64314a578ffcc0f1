"""An engine alone in a fresh process: load time, memory, the share of pre- and post-processing.

    python bench/alone.py PLAN PRECISION THREADS

Prints JSON. bench/end_to_end.py starts it; a process of its own has the memory of nobody else.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import numpy as np

import adfast
from adfast.benchmark import sample_frame

FRAMES = 20
SECONDS = 30.0  # slow models see fewer frames, at least three


def peak_mb() -> float:
    """Return the most memory that was resident since this program began.

    Not ru_maxrss, which a process inherits from the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def main() -> int:
    plan, precision, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    bare = peak_mb()
    loads = []
    for _ in range(2):  # the first may find the file out of the cache
        start = time.perf_counter()
        engine = adfast.load(plan, precision=precision, threads=threads)
        loads.append(1e3 * (time.perf_counter() - start))
        if len(loads) == 1:
            del engine
    frame = sample_frame(1000, 1000)
    shares, begin = [], time.perf_counter()
    while len(shares) < 3 or (len(shares) < FRAMES and time.perf_counter() - begin < SECONDS):
        timings = engine.predict(frame).timings
        shares.append((timings["frame"] + timings["map"]) / timings["total"])
    found = {
        "load_ms": min(loads),
        "peak_mb": peak_mb(),
        "python_and_numpy_mb": bare,
        "frames": len(shares),
        "pre_post_share": float(np.median(shares)),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
