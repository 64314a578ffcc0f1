"""The engine against its peers, from a uint8 frame to score and full-size map.

    python bench/end_to_end.py                 # the race: batch 1 and batch 8
    python bench/end_to_end.py --busy          # tail latency beside a busy core
    python bench/end_to_end.py --endurance     # memory over 10,000 frames
    python bench/end_to_end.py --targets       # only print the targets and what was measured

Random weights (time does not depend on them), every processor core. Answers are checked before
anything is timed. Contestants take turns within each round, so that a machine that slows down
slows down for all, after a pause in which the others' threads go to sleep; ratios are medians of
the rounds' ratios. Two protocols, the engine being timed from frame to full-size map in both:
"end to end" gives the peers the same work, with preprocessing and resizing of maps as their users
would write them; "network" lets the peers run only the network on a tensor that is ready.

Results go to bench/results/end_to_end.json, by machine; from there bench/tables.py makes the
README's tables and the chart.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The engine shares PyTorch's OpenMP, and whoever is imported first says how long its threads wait:
# in a race PyTorch, as its users have it; beside a busy core the engine, as a line has it.
if "--busy" in sys.argv:
    import adfast  # noqa: F401

sys.path.insert(0, str(Path(__file__).parent))
import figures
import memory
import peers
from models import MODELS, make, quantise
from race import SIDE, THREADS, Race, calibration_images, frames
from record import commit, machine_key, read_results, save

from adfast.benchmark import machine

BUSY = ("GTrans-R34", "ADTR")


def ceilings() -> dict[str, float]:
    """GFLOP/s of the best product or convolution, repeated with hot caches, by precision.

    PyTorch's (MKL's and oneDNN's), on all threads: what the machine does at its best, not what a
    network of many shapes could reach.
    """
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(THREADS)
    found = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        rates = []
        for n in (512, 1024, 1536):
            a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
            rates.append((2e-9 * n**3) / best_seconds(lambda a=a, b=b: torch.mm(a, b)))
        for channels, side in ((128, 28), (256, 14), (256, 32)):
            x = torch.randn(1, channels, side, side).to(dtype, memory_format=torch.channels_last)
            w = torch.randn(channels, channels, 3, 3).to(dtype, memory_format=torch.channels_last)
            gflop = 2e-9 * 9 * channels**2 * side**2
            rates.append(gflop / best_seconds(lambda x=x, w=w: F.conv2d(x, w, padding=1)))
        found[name] = max(rates)
    with contextlib.suppress(RuntimeError):
        a = torch.randint(-9, 9, (1024, 1024), dtype=torch.int8)
        found["int8"] = 2e-9 * 1024**3 / best_seconds(lambda: torch._int_mm(a, a))
    return found


def best_seconds(call, seconds: float = 0.4) -> float:
    import torch

    found, begin = [], time.perf_counter()
    with torch.no_grad():
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return min(found)


def alone(plan: Path, precision: str) -> dict:
    """Measure the engine in a process of its own, see bench/alone.py."""
    command = [sys.executable, str(Path(__file__).parent / "alone.py"), plan, precision, THREADS]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure(title: str, args: argparse.Namespace) -> dict:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = make(title, folder)
        quantise(made[2], made[3], frames(calibration_images(title)))
        entry = {"commit": commit(), "date": datetime.date.today().isoformat(), "frame": SIDE}
        entry["load_average_before"] = load
        for batch in args.batch:
            if batch > 1 and title == "InTra":
                entry[f"batch{batch}"] = {"skipped": "a round would take minutes"}
                print(f"{title}, batch {batch}: left out, a round would take minutes")
                continue
            print(f"{title}, batch {batch}, {THREADS} threads", flush=True)
            race = Race(title, batch, folder, made)
            race.enter(args.contestants)
            found = race.run(args.rounds, args.budget)
            entry[f"batch{batch}"] = found
            print("\n".join(lines(found, batch)), flush=True)
            if batch == 1 and any(name.startswith("adfast") for name in race.contestants):
                entry |= engine_figures(race, found)
                print(*engine_lines(entry), sep="\n", flush=True)
            del race
            gc.collect()
    return entry


def engine_figures(race: Race, found: dict) -> dict:
    """What is measured of the engine by itself, and of the machine beside it."""
    rates = ceilings()
    engines = {}
    gflop = None
    for name in [n for n in race.contestants if n.startswith("adfast")]:
        precision = figures.precision_of(name)
        engine = race.contestants[name].loaded
        gflop = sum(step["gflop"] for step in engine.profile(race.scene.frames[0]))
        median = found["times"][name]["end_to_end"]["median_ms"]
        engines[precision] = {
            "isa": engine.info["isa"],
            "gflop": gflop,
            "ceiling_share": figures.ceiling_share(gflop, median, rates, precision),
            **alone(race.plan, precision),
        }
    return {"gflop": gflop, "ceiling_gflops": rates, "engine": engines}


def lines(found: dict, batch: int) -> list[str]:
    out = [f"  {found['rounds']} rounds; ms per call"]
    out[0] += f" of {batch} frames" if batch > 1 else ""
    header = ("median", "p90", "p99", "spread", "network", "frames/s")
    out.append(" " * 22 + "".join(word.rjust(10) for word in header))
    by_median = sorted(found["times"].items(), key=lambda i: i[1]["end_to_end"]["median_ms"])
    for name, both in by_median:
        s = both["end_to_end"]
        cells = [s["median_ms"], s["p90_ms"], s["p99_ms"]]
        text = ["–" if value is None else f"{value:.2f}" for value in cells]
        text.append(f"{100 * s['spread']:.0f} %")
        text.append(f"{both['network']['median_ms']:.2f}" if "network" in both else "–")
        text.append(f"{1e3 * batch / s['median_ms']:.1f}")
        out.append(f"  {name:20s}" + "".join(cell.rjust(10) for cell in text))
    for precision, protocols in found["ratios"].items():
        for protocol, row in protocols.items():
            if row is None:
                continue
            ends = row["interval"]
            sure = f" (95 %: {ends[0]:.2f} to {ends[1]:.2f})" if ends else ""
            what = "end to end" if protocol == "end_to_end" else "network only"
            factor = f"{row['ratio']:.2f}x the best peer's {what}"
            out.append(f"  {precision}: {factor}, {row['best_peer']}{sure}")
    return out


def engine_lines(entry: dict) -> list[str]:
    rates = ", ".join(f"{p} {rate:.0f}" for p, rate in entry["ceiling_gflops"].items())
    out = [f"  best rates of the machine, GFLOP/s: {rates}; the network has {entry['gflop']:.1f}"]
    for precision, found in entry["engine"].items():
        share = found["ceiling_share"]
        out.append(
            f"  adfast {precision}: {100 * share:.0f} % of the ceiling, loads in "
            f"{found['load_ms']:.0f} ms, peak memory {found['peak_mb']:.0f} MB, pre- and "
            f"post-processing of 1 MP {100 * found['pre_post_share']:.1f} %"
        )
    return out


@contextlib.contextmanager
def busy_core():
    """Keep one of this process's cores busy from another process."""
    core = max(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def measure_busy(title: str, args: argparse.Namespace) -> dict:
    """Return each contestant's times when the machine is quiet and when one core is busy."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = make(title, folder)
        quantise(made[2], made[3], frames(calibration_images(title)))
        race = Race(title, 1, folder, made)
        race.enter(args.contestants or ["adfast", "OpenVINO"])

        def phase() -> dict[str, list[float]]:
            times: dict[str, list[float]] = {name: [] for name in race.contestants}
            begin = time.perf_counter()
            for done in range(max(args.rounds, 120)):
                # Fewer have no 99th percentile.
                if done >= 100 and time.perf_counter() - begin > args.budget:
                    break
                for name, contestant in race.contestants.items():
                    ours = name.startswith("adfast")
                    call = contestant.end_to_end if ours else contestant.network
                    times[name].append(peers.timed(call))
            return times

        quiet = phase()
        with busy_core():
            busy = phase()
    found = {}
    for name in quiet:
        before, after = figures.summary(quiet[name]), figures.summary(busy[name])
        tail = after["p99_ms"]
        found[name] = {
            "quiet": before,
            "busy": after,
            "median_over_quiet_median": after["median_ms"] / before["median_ms"],
            "p99_over_quiet_median": None if tail is None else tail / before["median_ms"],
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
        }
        row = found[name]
        p99 = "–" if tail is None else f"{tail:.1f} ms, {row['p99_over_quiet_median']:.2f}x"
        print(
            f"  {name:16s} quiet median {before['median_ms']:.1f} ms; beside a busy core median "
            f"{after['median_ms']:.1f} ms ({row['median_over_quiet_median']:.2f}x), p99 {p99}"
        )
    return found


def print_targets(report: dict) -> None:
    print("\nTargets")
    for target in figures.targets(report):
        print(f"{target.text}: {figures.verdict(target)}")
        for case in target.cases:
            print(f"    {case.name:28s}{case.measured:>10s}  {case.verdict or 'not measured'}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    mode = result.add_mutually_exclusive_group()
    mode.add_argument("--busy", action="store_true", help="tail latency beside a busy core")
    mode.add_argument(
        "--endurance", type=int, nargs="?", const=10_000, metavar="N", help="memory over N frames"
    )
    mode.add_argument("--targets", action="store_true", help="print targets and figures, run none")
    result.add_argument(
        "--models",
        nargs="+",
        choices=figures.ROWS,
        metavar="MODEL",
        help="of " + ", ".join(figures.ROWS) + " (all; with --busy " + " and ".join(BUSY) + ")",
    )
    result.add_argument("--batch", type=int, nargs="+", default=[1, 8], metavar="N")
    result.add_argument("--rounds", type=int, default=25, help="at most, for each model and batch")
    result.add_argument(
        "--budget", type=float, default=90, help="seconds of rounds for each model and batch"
    )
    result.add_argument(
        "--contestants", nargs="+", default=[], metavar="WORD", help="only names with these words"
    )
    result.add_argument("--plan", type=Path, help="a plan for --endurance")
    result.add_argument("--dry", action="store_true", help="write no results")
    return result


def main() -> int:
    args = parser().parse_args()
    write = (lambda change: None) if args.dry else save
    if args.endurance is not None:
        found = memory.measure_endurance(args.endurance, args.plan)
        write(lambda report: report.update(endurance=found))
    elif not args.targets:
        for title in args.models or (BUSY if args.busy else figures.ROWS):
            if args.busy:
                print(f"{title}, {THREADS} threads", flush=True)
                found = measure_busy(title, args)
                write(lambda r, t=title, f=found: r.setdefault("busy", {}).update({t: f}))
            else:
                found = measure(title, args)
                write(
                    lambda r, t=title, f=found: r["models"].update({t: r["models"].get(t, {}) | f})
                )
    if not args.dry:
        report = read_results()["machines"].get(machine_key(machine()))
        if report is None:
            print("nothing was measured on this kind of machine yet")
            return 1
        print_targets(report)
    return 0


if __name__ == "__main__":
    assert set(figures.ROWS) <= set(MODELS)
    sys.exit(main())
