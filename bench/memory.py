"""What a process holds of memory, and the engine's over many frames."""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import tempfile
import time
from pathlib import Path

from models import make
from race import THREADS, frames
from record import commit

import adfast


class Mallinfo(ctypes.Structure):
    """Has the fields of glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def heap_kb() -> int | None:
    """Kilobytes that malloc has given out; None where the C library does not say."""
    try:
        info = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    info.restype = Mallinfo
    found = info()
    return (found.uordblks + found.hblkhd) // 1024


def resident_kb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def measure_endurance(count: int, given: Path | None = None) -> dict:
    """Run a small plan, or a given one, for many frames and watch the memory."""
    warm = 200
    frame = frames(1)[0]
    with tempfile.TemporaryDirectory() as scratch:
        plan = given or make("GTrans-R18", Path(scratch))[2]
        engine = adfast.load(plan, threads=THREADS)
        for _ in range(warm):
            engine.predict(frame)
        gc.collect()
        samples = [(0, resident_kb(), heap_kb())]
        begin = time.perf_counter()
        for done in range(1, count + 1):
            engine.predict(frame)
            if done % max(count // 20, 1) == 0 or done == count:
                samples.append((done, resident_kb(), heap_kb()))
        seconds = time.perf_counter() - begin
    (_, first, heap), (_, last, heap_end) = samples[0], samples[-1]
    found = {
        "plan": "GTrans-R18, random weights" if given is None else given.name,
        "precision": engine.info["precision"],
        "frames": count,
        "warmup": warm,
        "milliseconds_per_frame": 1e3 * seconds / count,
        "resident_kb": [kb for _, kb, _ in samples],
        "heap_kb": [kb for _, _, kb in samples],
        "resident_growth_kb": last - first,
        "heap_growth_kb": None if heap is None else heap_end - heap,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    print(
        f"{count} frames after {warm}, {found['milliseconds_per_frame']:.2f} ms each: resident "
        f"memory {first} KB, {last - first:+d} KB; heap {found['heap_growth_kb']} KB more"
    )
    return found
