"""The CUDA backend against PyTorch on the same card, from a uint8 frame to score and map.

    python bench/gpu.py [--models NAME ...] [--compile MODE] [--batches N ...] [--seconds S]

Random weights (time does not depend on them). Answers are checked before anything is timed.
Contestants take turns within each round. Latency is of one frame in host memory to its score and
full-size map in host memory; beside it stands the time on the card of the network alone, by the
card's own clock. PyTorch runs in half precision, channels-last, its frame resized and its map
enlarged on the card: call by call, recorded in a CUDA graph, and compiled with --compile (a mode of
torch.compile, or "none"). Of several frames PyTorch makes one batch; the engine, whose plans have
batch 1, has three frames in work at once (predict_batch).

Results go to bench/results/gpu.json, by card; models that are not measured keep what they had.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))
import figures
from models import MODELS, create, make
from race import frames
from record import commit

import adfast
from adfast.benchmark import machine
from adfast.data.folder import to_network
from adfast.files import atomic_write

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PRECISIONS = ("f16", "bf16", "f32")
# Of the map's maximum, from PyTorch's f32 map on the CPU; as in race.py.
TOLERANCE = {"f32": 1e-3, "f16": 0.05, "bf16": 0.25}
BATCHES = (8, 32)
MODES = ("eager", "graph")  # beside what torch.compile is asked for
ROUNDS = 5


def card() -> dict[str, object]:
    """Name the card and measure what it can do: bytes copied and products in f16 per second."""
    properties = torch.cuda.get_device_properties(0)
    seconds, products = copy_seconds(), product_seconds()
    torch.cuda.empty_cache()
    return {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "copy_gb_s": round(2 * 4 * (1 << 28) / seconds / 1e9),
        "f16_tflop_s": round(2 * 8192**3 / products / 1e12),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def copy_seconds() -> float:
    x = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    y = torch.empty_like(x)
    return on_card(lambda: y.copy_(x), 10)


def product_seconds() -> float:
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    return on_card(lambda: a @ a, 10)


def on_card(call, repeats: int) -> float:
    """Return seconds per call by the card's clock."""
    for _ in range(3):
        call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


class Torch:
    """The model in half precision on the card, its frame's way in and its map's way out with it."""

    def __init__(self, model, frame: np.ndarray, batch: int, mode: str):
        self.model = model
        self.config = model.config
        self.batch = batch
        self.frame = torch.from_numpy(frame).pin_memory()
        self.size = frame.shape[:2]
        self.run = self.network
        self.image = self.prepare()
        if mode == "graph":
            self.record()
        elif mode != "eager":
            torch._dynamo.reset()
            self.run = torch.compile(self.network, mode=mode)
        for _ in range(3):
            self.run(self.image)
        torch.cuda.synchronize()

    def record(self) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(3):
                self.network(self.image)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        still = self.image.clone(memory_format=torch.channels_last)
        with torch.cuda.graph(graph), torch.no_grad():
            answer = self.network(still)

        def replay(image):
            still.copy_(image)
            graph.replay()
            return answer

        self.run = replay

    @torch.no_grad()
    def network(self, image: torch.Tensor):
        # What is no convolution or product of theirs stays in float32, as in training.
        with torch.autocast("cuda", torch.float16, cache_enabled=False):
            return self.model(image)

    def prepare(self) -> torch.Tensor:
        x = self.frame.to("cuda", non_blocking=True).permute(2, 0, 1)[None].float() / 255
        x = F.interpolate(x, self.config.resize, mode="bilinear", antialias=True)
        top, left = (
            (r - c) // 2 for r, c in zip(self.config.resize, self.config.crop, strict=True)
        )
        x = x[:, :, top : top + self.config.crop[0], left : left + self.config.crop[1]]
        x = x.expand(self.batch, -1, -1, -1)
        return x.contiguous(memory_format=torch.channels_last)

    def answer(self) -> tuple[float, np.ndarray]:
        score, maps = self.run(self.image)
        return float(score.reshape(-1)[0]), maps[0, 0].float().cpu().numpy()

    @torch.no_grad()
    def end_to_end(self) -> None:
        score, maps = self.run(self.prepare())
        F.interpolate(maps.float(), self.size, mode="bilinear").cpu()
        score.cpu()


class Engine:
    """The engine; a batch is as many calls."""

    def __init__(self, plan: Path, precision: str, frame: np.ndarray, batch: int):
        self.engine = adfast.load(plan, device="cuda", precision=precision)
        self.frames = [frame] * batch
        self.engine.warmup()

    def answer(self) -> tuple[float, np.ndarray]:
        result = self.engine.predict(self.frames[0])
        return result.score, result.network_map

    def end_to_end(self) -> None:
        if len(self.frames) == 1:
            self.timings = self.engine.predict(self.frames[0]).timings
        else:
            self.engine.predict_batch(self.frames)


def checked(contestant, precision: str, expected) -> dict[str, float]:
    _, got = contestant.answer()
    error = float(np.abs(got - expected).max() / expected.max())
    alike = float(np.corrcoef(got.ravel(), expected.ravel())[0, 1])
    if not (error <= TOLERANCE[precision] or alike > 0.95):
        raise ValueError(f"wrong answer: maps differ by {error:.2g} of the maximum")
    return {"map_error": error, "correlation": alike}


def race(contestants: dict, seconds: float) -> dict[str, dict]:
    """Everybody in turns, `seconds` each in all; latencies of single calls."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    medians: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            end, found = time.perf_counter() + seconds / ROUNDS, []
            while not found or time.perf_counter() < end:
                begin = time.perf_counter()
                contestant.end_to_end()
                found.append((time.perf_counter() - begin) * 1e3)
            samples[name] += found
            medians[name].append(float(np.median(found)))
    return {
        name: figures.summary(samples[name]) | {"rounds_ms": medians[name]} for name in contestants
    }


def build(title: str, folder: str, mode: str) -> str:
    """Make a plan, and leave what torch.compile makes of the model in its cache, in a process."""
    torch.set_num_threads(2)
    target = Path(folder) / title
    if not (target / "model.plan").exists():
        target.mkdir(parents=True, exist_ok=True)
        make(title, target)
    if mode not in MODES:
        with contextlib.suppress(Exception):  # it will fail again where it is noted
            Torch(in_half(create(title)), frames(1)[0], 1, mode)
    return title


def measure(title: str, plan: Path, batch: int, modes: list[str], seconds: float, found: dict):
    """Race for one model and batch; enters what is found into `found`."""
    frame = frames(1)[0]
    model = create(title)
    config = model.config
    with torch.no_grad():
        expected = model(to_network(frame, config.resize, config.crop)[None])[1][0, 0].numpy()
    half = in_half(model)
    contestants = enter(plan, half, frame, batch, modes, expected, found)
    if batch == 1:
        for name, contestant in contestants.items():
            look_closer(name, contestant, frame, found)
    latency = race(contestants, seconds)
    if batch == 1:
        found["latency"] = latency
    else:
        found.setdefault("frames_per_second", {})[str(batch)] = {
            name: round(1e3 * batch / entry["median_ms"], 1) for name, entry in latency.items()
        }
    for name, entry in latency.items():
        print(f"  batch {batch}: {name}: {entry['median_ms']:.3f} ms", flush=True)


def in_half(model) -> torch.nn.Module:
    """Put the model on the card, the weights of its convolutions and products in f16."""
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)):
            module.half()
    return model.cuda().to(memory_format=torch.channels_last)


def enter(plan, half, frame, batch: int, modes, expected, found: dict) -> dict:
    """Set up and check everybody for a batch; note who cannot run."""
    builders = {
        f"adfast {p}": (p, lambda p=p: Engine(plan, p, frame, batch))
        for p in (PRECISIONS if batch == 1 else PRECISIONS[:1])
    }
    builders |= {
        f"PyTorch {mode} f16": ("f16", lambda mode=mode: Torch(half, frame, batch, mode))
        for mode in modes
        if batch == 1 or mode == "graph"
    }
    contestants = {}
    for name, (precision, builder) in builders.items():
        try:
            contestant = builder()
            answer = checked(contestant, precision, expected)
        except Exception as error:  # whoever cannot run is named, the others go on
            traceback.print_exc()
            found["missing"][f"{name}, batch {batch}"] = str(error).splitlines()[0][:300]
            print(f"  {name}, batch {batch}: left out", flush=True)
            continue
        contestants[name] = contestant
        found["answers"].setdefault(name, answer)
    return contestants


def look_closer(name: str, contestant, frame, found: dict) -> None:
    """Note the network's time by the card's clock and, of the engine, the stages' and steps'."""
    if isinstance(contestant, Torch):
        with torch.no_grad():
            seconds = on_card(lambda: contestant.run(contestant.image), 50)
        found["network_ms"][name] = 1e3 * seconds
        return
    times = [contestant.engine.predict(frame).timings for _ in range(50)]
    stages = {key: float(np.median([t[key] for t in times])) for key in times[0]}
    found["network_ms"][name] = stages["network"]
    found.setdefault("stages_ms", {})[name] = stages
    found.setdefault("profile", {})[name] = steps(contestant.engine, frame)


def steps(engine, frame) -> list[dict]:
    """The least time of each step over several runs, the longest first."""
    runs = [engine.profile(frame) for _ in range(10)]
    merged = [dict(step[0], ms=min(s["ms"] for s in step)) for step in zip(*runs, strict=True)]
    keep = ("op", "name", "kernel", "ms", "gflop", "bytes")
    merged.sort(key=lambda step: -step["ms"])
    return [{key: step[key] for key in keep} for step in merged[:12]]


def table(report: dict) -> str:
    lines = [f"{'ms, batch 1':<14}{'f16':>8}{'bf16':>8}{'f32':>8}{'net f16':>9}{'best peer':>11}  "]
    lines[0] += "its name; ratio end to end, network alone"
    for title, entry in report["models"].items():
        if not entry["latency"]:
            lines.append(f"{title:<14}  failed: {entry.get('error')}")
            continue
        ours = {p: entry["latency"].get(f"adfast {p}", {}).get("median_ms") for p in PRECISIONS}
        peers = {n: e["median_ms"] for n, e in entry["latency"].items() if "PyTorch" in n}
        cells = "".join(f"{ours[p]:8.3f}" if ours[p] else f"{'-':>8}" for p in PRECISIONS)
        line = f"{title:<14}{cells}"
        network = entry["network_ms"].get("adfast f16")
        line += f"{network:9.3f}" if network else f"{'-':>9}"
        if peers and ours["f16"]:
            best = min(peers, key=peers.get)
            theirs = min(v for n, v in entry["network_ms"].items() if "PyTorch" in n)
            line += f"{peers[best]:11.3f}  {best}; {peers[best] / ours['f16']:.2f}x, "
            line += f"{theirs / network:.2f}x"
        lines.append(line)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--compile", default="max-autotune", metavar="MODE", help="or none")
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES), metavar="N")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contestant")
    parser.add_argument("--plans", metavar="DIR", help="where plans are kept, to be used again")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: PyTorch finds no CUDA device", file=sys.stderr)
        return 1
    titles = arguments.models or [title for title in MODELS if title != "ADTR+"]
    modes = [*MODES] + ([arguments.compile] if arguments.compile != "none" else [])
    # Where the file lies says nothing of how it was measured.
    told = [word for word in sys.argv[1:] if word not in ("--out", str(arguments.out))]
    report = {
        "command": " ".join(["python", "bench/gpu.py", *told]),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "card": card(),
        "machine": machine(),
        "models": {},
    }
    print(json.dumps(report["card"]), flush=True)
    with contextlib.ExitStack() as stack:
        folder = arguments.plans or stack.enter_context(tempfile.TemporaryDirectory())
        workers = min(len(titles), max(1, len(os.sched_getaffinity(0)) // 2))
        # CUDA does not survive a fork.
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            ready = {title: pool.submit(build, title, folder, modes[-1]) for title in titles}
            concurrent.futures.wait(ready.values())  # nobody else is at work while we measure
        # Frames one by one first, for all models.
        for batch in (1, *arguments.batches):
            for title in titles:
                print(f"{title}, batch {batch}", flush=True)
                found = report["models"].setdefault(title, empty(report))
                try:
                    ready[title].result()
                    plan = Path(folder) / title / "model.plan"
                    measure(title, plan, batch, modes, arguments.seconds, found)
                except Exception as error:  # one model must not cost the others their figures
                    traceback.print_exc()
                    found["error"] = str(error).splitlines()[0][:300]
                gc.collect()
                torch.cuda.empty_cache()
                write(arguments.out, report)
    print(table(report))
    return 0 if not any("error" in entry for entry in report["models"].values()) else 1


def empty(report: dict) -> dict:
    about = {key: report[key] for key in ("commit", "date", "command")}
    return about | {"latency": {}, "network_ms": {}, "answers": {}, "missing": {}}


def write(path: Path, report: dict) -> None:
    """Enter this card's models beside its others and those of other cards."""
    everything = json.loads(path.read_text()) if path.exists() else {"cards": {}}
    known = everything["cards"].get(report["card"]["name"], {"models": {}})["models"]
    entered = report | {"models": known | report["models"]}
    everything["cards"][report["card"]["name"]] = entered
    with atomic_write(path, "w") as file:
        json.dump(everything, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    sys.exit(main())
