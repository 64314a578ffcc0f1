"""Full disks, killed processes, files that vanish, memory that is not there, clocks that jump."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import adfast
from adfast import _core

TESTS = Path(__file__).parent.parent


def start(script: str, *words, **options) -> subprocess.Popen:
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n" + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(script: str, *words, **options) -> str:
    process = start(script, *words, **options)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{error}"
    return out


WRITE = """
from conftest import tiny_graph
from adfast.compiler.writer import Golden, plan_fields, write_plan
fields = plan_fields(model="new", name="new", resize=[18, 20], crop=[16, 16])
def write(path):
    write_plan(path, tiny_graph(), fields, {}, Golden(), {}, {})
"""


def test_a_full_disk_leaves_the_old_plan(tiny_plan, tmp_path):
    path = tmp_path / "a.plan"
    path.write_bytes(tiny_plan.read_bytes())
    out = run(
        WRITE
        + """
import resource
from adfast.errors import AdfastError
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    write(sys.argv[1])
except AdfastError as error:
    print(error)
""",
        path,
    )
    assert "cannot write" in out and "File too large" in out
    assert path.read_bytes() == tiny_plan.read_bytes()
    assert os.listdir(tmp_path) == ["a.plan"]


def test_a_full_disk_while_a_plan_is_calibrated_or_signed(tiny_plan, tmp_path):
    from adfast.images import write_png

    (tmp_path / "good").mkdir()
    for number in range(2):
        frame = np.full((9, 9), 30 * number, np.uint8)
        write_png(tmp_path / f"good/{number}.png", frame)
    out = run(
        """
        import resource
        from adfast import cli
        plan, folder = sys.argv[1:]
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        for words in (
            ["calibrate", plan, "-o", f"{folder}/b.plan", "--good", f"{folder}/good", "-q"],
            ["keygen", f"{folder}/k.pem"],
            ["sign", plan, "--key", f"{folder}/k.pem", "-o", f"{folder}/s.plan"],
        ):
            try:
                import cryptography
            except ImportError:
                if words[0] != "calibrate":
                    continue
            expected = 0 if words[0] == "keygen" else 1
            assert cli.main(words) == expected, words
        """,
        tiny_plan,
        tmp_path,
    )
    assert "Traceback" not in out
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".plan")]


def test_a_folder_that_cannot_be_written_is_an_error():
    out = run(
        WRITE
        + """
from adfast.errors import AdfastError
try:
    write("/proc/a.plan")
except AdfastError as error:
    print(error)
"""
    )
    assert "cannot write /proc/a.plan" in out and "that you may write to" in out


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_killed_process_leaves_the_old_plan_or_the_new(tiny_plan, tmp_path, moment):
    """Whatever it was doing: half a plan never has the plan's name."""
    path = tmp_path / "a.plan"
    path.write_bytes(tiny_plan.read_bytes())
    hang = {
        # After the first piece of the file.
        "write": "import adfast.plan_file as p\n"
        "def pieces(head, sections):\n    yield head\n    stop()\n"
        "p.pieces = pieces\n",
        "fsync": "os.fsync = lambda number: stop()\n",
        "replace": "os.replace = lambda a, b: stop()\n",
    }[moment]
    process = start(
        WRITE
        + "import os, time\ndef stop():\n    print('now', flush=True)\n    time.sleep(60)\n"
        + hang
        + "write(sys.argv[1])\n",
        path,
    )
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.read_bytes() == tiny_plan.read_bytes()
    adfast.load(path)
    # What is left behind hides, and nothing takes it for a plan or an image.
    left = [name for name in os.listdir(tmp_path) if name != "a.plan"]
    assert all(name.startswith(".a.plan.") for name in left)


@pytest.mark.parametrize("how", ["truncated", "deleted", "overwritten"])
def test_a_plan_that_goes_while_it_is_used(tiny_plan, tmp_path, how):
    """Nothing stays mapped: a page of a file cut short would end the process."""
    path = tmp_path / "a.plan"
    path.write_bytes(tiny_plan.read_bytes())
    frame = np.full((9, 9), 50, np.uint8)
    engine, plan = adfast.load(path, precision="f32"), _core.Plan(str(path))
    score, weights = engine.predict(frame).score, plan.section("weights")
    if how == "truncated":
        os.truncate(path, 0)
    elif how == "deleted":
        path.unlink()
    else:
        with open(path, "r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
    assert engine.predict(frame).score == score
    assert engine.self_test()["passed"] and engine.info["threshold"] == 0.05
    assert plan.section("weights") == weights
    assert plan.contents()["fields"]["model"] == "tiny"


def test_a_plan_that_is_cut_short_while_it_is_read(tiny_plan, tmp_path):
    """An error or a good plan, thousands of times, never a signal."""
    path, data = tmp_path / "a.plan", tiny_plan.read_bytes()
    path.write_bytes(data)
    writer = start(
        """
        import os
        path, data = sys.argv[1], open(sys.argv[2], "rb").read()
        print("now", flush=True)
        while True:
            os.truncate(path, 100)
            with open(path, "r+b") as file:
                file.write(data)
        """,
        path,
        tiny_plan,
    )
    assert writer.stdout.readline() == "now\n"
    outcomes = set()
    end = time.monotonic() + 3
    try:
        while time.monotonic() < end:
            try:
                _core.Plan(str(path)).contents()
                outcomes.add("read")
            except adfast.AdfastError:
                outcomes.add("refused")
    finally:
        writer.kill()
        writer.wait()
    assert "refused" in outcomes


def test_too_little_memory_is_an_error(tmp_path):
    """Of a network whose first image takes 300 MB, in a process that may have 100 MB more."""
    out = run(
        """
        import resource
        import numpy as np
        import adfast
        from adfast.compiler.graph import Graph
        from adfast.compiler.writer import Golden, plan_fields, write_plan
        side = 5000
        graph = Graph("large")
        sizes = {"resize": [side, side], "crop": [side, side]}
        (x,) = graph.add("frame", [], sizes | {"scale": [1.0] * 3, "bias": [0.0] * 3})
        (y,) = graph.add("reduce_mean", [x], {"axes": [1], "keepdims": 1})
        (score,) = graph.add("reduce_max", [y], {"axes": [1, 2, 3], "keepdims": 0})
        graph.output("map", y)
        graph.output("score", score)
        fields = plan_fields(model="m", name="n", resize=[side, side], crop=[side, side])
        write_plan(sys.argv[1], graph, fields, {}, Golden(), {}, {})
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)
        try:
            adfast.load(sys.argv[1], threads=1, device="cpu")
        except (adfast.AdfastError, MemoryError) as error:
            print(type(error).__name__, error)
        """,
        tmp_path / "large.plan",
    )
    assert "AdfastError out of memory: the plan needs" in out


def test_too_little_memory_for_the_file_is_an_error(tmp_path):
    out = run(
        """
        import resource
        import adfast
        with open(sys.argv[1], "wb") as file:
            size = 2**30
            file.write(b"ADFPLAN\\x1a" + (1).to_bytes(4, "little") * 2 + size.to_bytes(8, "little"))
            file.truncate(size)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)
        try:
            adfast.load(sys.argv[1], threads=1, device="cpu")
        except (adfast.AdfastError, MemoryError) as error:
            print(type(error).__name__)
        from adfast import cli
        print(cli.main(["info", sys.argv[1]]))
        """,
        tmp_path / "large.plan",
    )
    assert out == "MemoryError\n1\n"


JUMPS = """
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The wall clock alone: at every second look it is an hour ahead. */
static long jump(void) {
  static unsigned looks;
  return __atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED) % 2 ? 3600 : 0;
}
int clock_gettime(clockid_t clock, struct timespec* now) {
  int failed = (int)syscall(SYS_clock_gettime, clock, now);
  if (!failed && clock == CLOCK_REALTIME) now->tv_sec += jump();
  return failed;
}
int gettimeofday(struct timeval* now, void* zone) {
  struct timespec found;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &found);
  now->tv_sec = found.tv_sec;
  now->tv_usec = found.tv_nsec / 1000;
  return 0;
}
time_t time(time_t* now) {
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  if (now) *now = found.tv_sec;
  return found.tv_sec;
}
"""


def test_a_clock_that_jumps_neither_expires_frames_nor_stops_anyone(tiny_plan, tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a jumping clock of")
    source, library = tmp_path / "jumps.c", tmp_path / "jumps.so"
    source.write_text(JUMPS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    out = run(
        """
        import time, numpy, adfast
        looks = [time.time() for _ in range(4)]
        assert max(looks) - min(looks) > 3000, looks  # it does jump
        engine = adfast.load(sys.argv[1], device="cpu")
        frame = numpy.zeros((30, 40), numpy.uint8)
        begin = time.monotonic()
        with engine.stream(capacity=4, deadline_ms=20_000) as stream:
            for number in range(12):
                stream.submit(frame, id=number)
                got = stream.poll(timeout=30)
                assert got.id == number and 0 <= got.queue_ms <= got.total_ms < 20_000, got
            assert stream.poll(timeout=0.05) is None
            counters = stream.counters
        assert counters["completed"] == 12 and counters["expired"] == 0, counters
        assert 0 < engine.predict(frame).timings["total"] < 20_000
        assert engine.counters["latency_ms"]["max"] < 20_000
        assert time.monotonic() - begin < 60
        print("steady")
        """,
        tiny_plan,
        env={**os.environ, "LD_PRELOAD": str(library)},
    )
    assert out == "steady\n"
