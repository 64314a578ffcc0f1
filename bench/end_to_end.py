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
import ctypes
import datetime
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

# The engine shares PyTorch's OpenMP, and whoever is imported first says how long its threads wait:
# in a race PyTorch, as its users have it; beside a busy core the engine, as a line has it.
if "--busy" in sys.argv:
    import adfast  # noqa: I001
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import figures
import peers
from models import MODELS, make, quantise

import adfast
from adfast.benchmark import machine, sample_frame
from adfast.errors import AdfastError
from adfast.files import atomic_write

RESULTS = Path(__file__).parent / "results" / "end_to_end.json"
SIDE = 512
THREADS = len(os.sched_getaffinity(0))
LEAST_ROUNDS = 3
BUSY = ("GTrans-R34", "ADTR")
# A network that takes longer than this is timed within its end-to-end call, not once more.
SLOW_MS = 1000.0
# Largest difference of a map from PyTorch's f32 map, over that map's maximum. In bf16 and int8
# random weights, which reconstruct nothing, exaggerate it; maps that are not close must agree in
# shape: correlate.
TOLERANCE = {"f32": 1e-3, "bf16": 0.25, "int8": 1.0}
CLOSE = 0.05
LEAST_CORRELATION = {"f32": 0.999, "bf16": 0.95, "int8": 0.8}


def frames(count: int) -> list[np.ndarray]:
    """Return frames of one scene in different light, the same each time."""
    base = sample_frame(SIDE, SIDE).astype(np.float32)
    return [np.clip(base * (1 - 0.04 * i), 0, 255).astype(np.uint8) for i in range(count)]


def calibration_images(title: str) -> int:
    """Return how many images int8 is calibrated on, the engine's and the peers' alike."""
    return 2 if title == "InTra" else 8  # its calibration takes seconds an image


class WrongAnswer(ValueError):
    """A contestant's map is too far from PyTorch's."""


def inspected(config) -> tuple[int, int, int, int]:
    """Return the part of a frame that the network sees: top, left, bottom, right."""
    margins = [(r - c) // 2 / r for r, c in zip(config.resize, config.crop, strict=True)]
    top, left = (round(SIDE * margin) for margin in margins)
    return top, left, SIDE - top, SIDE - left


class Race:
    """One model and batch: contestants with their answers checked, and why others are missing."""

    def __init__(self, title: str, batch: int, folder: Path, made: tuple):
        self.model, self.onnx_path, self.plan, _ = made
        config = self.model.config
        self.scene = peers.Scene(frames(batch), config.resize, config.crop, inspected(config))
        # Calibration and answers are on what PyTorch is trained on; Pillow rounds to uint8 between.
        from adfast.data.folder import to_network

        self.inputs = [
            to_network(frame, config.resize, config.crop)[None].numpy()
            for frame in frames(max(batch, calibration_images(title)))
        ]
        self.image = np.concatenate(self.inputs[:batch])
        self.title, self.batch, self.folder = title, batch, folder
        self.contestants: dict[str, peers.Engine | peers.Peer] = {}
        self.missing: dict[str, str] = {}

    def expected(self) -> peers.Answer:
        import torch

        with torch.no_grad():
            answers = [self.model(torch.from_numpy(image)) for image in self.inputs[: self.batch]]
        scores = np.concatenate([score.reshape(-1).numpy() for score, _ in answers])
        return scores, np.concatenate([maps[:, 0].numpy() for _, maps in answers])

    def enter(self, wanted: list[str]) -> None:
        """Set up, check and warm up everybody; who cannot run is noted with the reason."""
        expected = self.expected()
        builders = self.builders()
        for name in builders:
            if wanted and not any(word.lower() in name.lower() for word in wanted):
                continue
            choices = []
            for build in builders[name]:
                try:
                    choices.append(self.checked(name, build, expected))
                except (AdfastError, ImportError, RuntimeError, ValueError) as error:
                    self.missing[name] = str(error).strip().splitlines()[0][:200]
                    print(f"  {name}: left out: {self.missing[name]}", flush=True)
            if choices:
                # Of several settings the one that is faster on this machine.
                milliseconds, self.contestants[name] = min(choices, key=lambda choice: choice[0])
                print(f"  {name}: ready, {milliseconds:.1f} ms", flush=True)
                self.missing.pop(name, None)
            gc.collect()
        if not self.contestants:
            raise SystemExit("nobody is left to run")

    def builders(self) -> dict[str, list]:
        several = self.batch > 1
        engines = {
            f"adfast {p}": [
                lambda p=p, n=n: peers.Engine(self.plan, p, THREADS, self.scene, n)
                for n in ((0, THREADS) if several else (0,))
            ]
            for p in ("f32", "bf16", "int8")
        }
        size = self.model.config.crop

        def openvino(precision: str, streams: bool, rest: str = "") -> peers.Network:
            batch = 1 if streams else self.batch
            if precision == "int8":
                images = self.inputs[: calibration_images(self.title)]
                model = peers.quantized(self.onnx_path, batch, size, images)
            else:
                model = peers.openvino_model(self.onnx_path, batch, size)
            start = peers.openvino_streams if streams else peers.openvino
            return start(model, rest or precision, THREADS)

        found: dict[str, list] = {}
        ways = (False, True) if several else (False,)
        for p in ("f32", "bf16"):
            found[f"OpenVINO {p}"] = [lambda p=p, way=way: openvino(p, way) for way in ways]
        # What int8 leaves is computed in f32 or in bf16, whichever is faster on this machine.
        rests = ("f32", "bf16") if native_bf16() else ("f32",)
        found["OpenVINO int8"] = [
            lambda way=way, rest=rest: openvino("int8", way, rest) for way in ways for rest in rests
        ]
        found["ONNX Runtime f32"] = [lambda: peers.onnxruntime(self.onnx_path, THREADS)]
        found["PyTorch f32"] = [lambda: peers.torch_eager(self.model, THREADS)]
        for p in ("f32", "bf16"):
            found[f"torch.compile {p}"] = [
                lambda p=p: peers.torch_compile(self.model, p, THREADS),
            ]
        return engines | {
            name: [
                lambda build=build: peers.Peer(self.scene, build(), self.image) for build in builds
            ]
            for name, builds in found.items()
        }

    def checked(self, name: str, build, expected: peers.Answer):
        """Return (milliseconds of a warm call, contestant), or raise WrongAnswer."""
        contestant = build()
        ours = isinstance(contestant, peers.Engine)
        precision = figures.precision_of(name)
        _, maps = contestant.answer() if ours else contestant.network()
        error = np.abs(maps - expected[1]).max() / expected[1].max()
        alike = np.corrcoef(maps.ravel(), expected[1].ravel())[0, 1]
        shaped = error <= CLOSE or alike >= LEAST_CORRELATION[precision]
        if not (error <= TOLERANCE[precision] and shaped):
            raise WrongAnswer(
                f"wrong answer: maps differ by {error:.2g} of the maximum, correlation {alike:.3f}"
            )
        first = peers.timed(contestant.end_to_end)
        if first > 10 * SLOW_MS:
            return first, contestant
        return min(peers.timed(contestant.end_to_end) for _ in range(2)), contestant

    def run(self, rounds: int, seconds: float) -> dict:
        """Let everybody take turns until `rounds` or `seconds` are over."""
        names = list(self.contestants)
        whole: dict[str, list[float]] = {name: [] for name in names}
        network: dict[str, list[float]] = {
            name: [] for name in names if not name.startswith("adfast")
        }
        begin = time.perf_counter()
        done = 0
        while done < rounds and (done < LEAST_ROUNDS or time.perf_counter() - begin < seconds):
            # The order turns, so that nobody always follows the same neighbour.
            turn = done % len(names)
            for name in names[turn:] + names[:turn]:
                contestant = self.contestants[name]
                if name in network and (not network[name] or min(network[name]) < SLOW_MS):
                    network[name].append(peers.timed(contestant.network))
                    whole[name].append(peers.timed(contestant.end_to_end))
                elif name in network:
                    stages = parts(contestant)
                    network[name].append(stages["network"])
                    whole[name].append(sum(stages.values()))
                else:
                    whole[name].append(peers.timed(contestant.end_to_end))
            done += 1
        times = {
            name: {"end_to_end": figures.summary(whole[name])}
            | ({"network": figures.summary(network[name])} if name in network else {})
            for name in names
        }
        return {
            "rounds": done,
            "times": times,
            "ratios": figures.comparisons(whole, network),
            "missing": self.missing,
        }


def native_bf16() -> bool:
    from adfast import _core

    return _core.native_bf16()


def parts(peer: peers.Peer) -> dict[str, float]:
    """Time one end-to-end call of a peer by its parts."""
    peers.settle()
    marks = [time.perf_counter()]
    image = peer.scene.prepare()
    marks.append(time.perf_counter())
    _, maps = peer.run(image)
    marks.append(time.perf_counter())
    peer.scene.finish(maps)
    marks.append(time.perf_counter())
    names = ("prepare", "network", "finish")
    return {n: 1e3 * (b - a) for n, a, b in zip(names, marks, marks[1:], strict=False)}


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
            while len(times[next(iter(times))]) < max(args.rounds, 120):
                if time.perf_counter() - begin > args.budget:
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


def measure_endurance(args: argparse.Namespace) -> dict:
    """Run a small plan for many frames and watch the memory."""
    count, warm = args.endurance, 200
    frame = frames(1)[0]
    with tempfile.TemporaryDirectory() as scratch:
        if args.plan is None:
            _, _, plan, _ = make("GTrans-R18", Path(scratch))
        else:
            plan = args.plan
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
        "plan": "GTrans-R18, random weights" if args.plan is None else args.plan.name,
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
        "threads": THREADS,
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
        found = measure_endurance(args)
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
