"""Times the engine's own kernels on the sizes of real networks, on every instruction set.

    python bench/ops.py [--json FILE] [--only TEXT] [--runs N]

The cases are those of tests/ops that are marked hot; each is first run alone and compared with
the reference. For the time the operands are made by other ops from a frame, on one thread, and the
engine's own clock around the step is read: the median of the runs. Operands are as warm in the
caches as in a network.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "ops"))

from cases import CASES, Case  # noqa: E402
from record import commit  # noqa: E402

from adfast import _core  # noqa: E402
from adfast.benchmark import machine  # noqa: E402
from adfast.compiler import reference  # noqa: E402
from adfast.compiler.graph import Graph, Value  # noqa: E402
from adfast.compiler.writer import write_test_plan  # noqa: E402
from adfast.errors import AdfastError, ArgumentError  # noqa: E402
from adfast.files import atomic_write  # noqa: E402

ISAS = ("scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx")
FRAMES = [
    (side, side, channels, layout)
    for side in (256, 1000, 2000)
    for channels, layout in ((3, "rgb"), (1, "grey"))
] + [(1000, 1000, 3, "planar")]


def timed_graph(case: Case) -> Graph:
    """Let a frame feed the case's node, whatever its operands are."""
    graph = Graph("timed")
    sides = [operand.shape[2:] for operand in case.operands if operand and len(operand.shape) == 4]
    height, width = max(sides, default=(16, 16))
    attrs = {"resize": [height, width], "crop": [height, width]}
    (frame,) = graph.add("frame", [], attrs | {"scale": [1 / 255] * 3, "bias": [-0.5] * 3})
    random = np.random.default_rng(0)

    def features(channels: int, size: tuple[int, int]) -> Value:
        weight = graph.constant("weight", random.standard_normal((channels, 3, 1, 1)))
        strides = [height // size[0], width // size[1]]
        return graph.add("conv2d", [frame, weight], {"strides": strides})[0]

    def fed(shape: tuple[int, ...]) -> Value:
        if len(shape) == 4:
            return features(shape[1], shape[2:])
        if len(shape) == 3:
            rows = shape[0] * shape[1]
            weight = graph.constant("weight", random.standard_normal((rows, shape[2])))
            x = features(shape[2], (2, 2))
            (x,) = graph.add("token_attention", [x, weight], {"scale": 1.0})
            return graph.add("view", [x], {"shape": list(shape)})[0]
        x = features(1, (2, 2))
        return graph.add("reduce_max", [x], {"axes": [1, 2, 3], "keepdims": 0})[0]

    operands: list[Value | None] = []
    for operand, array in zip(case.operands, case.arrays(), strict=True):
        if operand is None:
            operands.append(None)
        elif operand.constant:
            operands.append(graph.constant("constant", array))
        else:
            operands.append(fed(operand.shape))
    graph.add(case.op, operands, case.attrs, name="timed")
    add_outputs(graph, frame)
    return graph


def add_outputs(graph: Graph, frame: Value) -> None:
    (top,) = graph.add("reduce_max", [frame], {"axes": [1], "keepdims": 1})
    graph.output("map", top)
    (score,) = graph.add("reduce_max", [top], {"axes": [1, 2, 3], "keepdims": 0})
    graph.output("score", score)


def traffic(case: Case, precision: str) -> int:
    """Bytes that the node must read and write at least."""
    graph, _ = case.graph(case.arrays())
    node = graph.nodes[0]
    total = 0
    for value in [value for value in node.inputs if value is not None] + node.outputs:
        wide = precision == "f32" or len(value.shape) != 4 or value.shape[1] == 1
        total += math.prod(value.shape) * (4 if wide else 2)
    return total


def checked(case: Case, precision: str, isa: str, folder: Path) -> float:
    """Largest error of the node alone, as a fraction of the largest expected value."""
    arrays = case.arrays()
    graph, inputs = case.graph(arrays)
    path = folder / "case.plan"
    write_test_plan(path, graph)
    got = _core.run_graph(str(path), inputs, precision=precision, isa=isa)
    want = reference.run(graph, inputs)
    error = max(np.abs(got[role] - want[role]).max() / np.abs(want[role]).max() for role in want)
    # In bf16 the operands are rounded too, which the reference here does not know of.
    allowed = case.f32 if precision == "f32" else 5e-2
    if error > allowed:
        raise SystemExit(f"[{case}] {isa} {precision}: wrong by {error:.3g}, allowed {allowed:.3g}")
    return float(error)


def engine_of(graph: Graph, precision: str, isa: str, folder: Path) -> _core.Engine:
    path = folder / "timed.plan"
    write_test_plan(path, graph)
    return _core.Engine(_core.Plan(str(path)), 1, precision, isa)


def step_times(engine, image: np.ndarray, names: tuple[str, ...], runs: int) -> tuple[float, float]:
    """Median milliseconds of the steps with these names together, and their GFLOP."""
    times, gflop = [], 0.0
    for _ in range(runs + 2):
        steps = [step for step in engine.profile(image, "") if step["name"] in names]
        times.append(sum(step["ms"] for step in steps))
        gflop = sum(step["gflop"] for step in steps)
    return statistics.median(times[2:]), gflop


def time_case(case: Case, precision: str, isa: str, runs: int, folder: Path) -> dict:
    error = checked(case, precision, isa, folder)
    engine = engine_of(timed_graph(case), precision, isa, folder)
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ms, gflop = step_times(engine, image, ("timed",), runs)
    return {"ms": ms, "gflop": gflop, "bytes": traffic(case, precision), "error": error}


def time_frame(height, width, channels, layout, precision, isa, runs, folder) -> dict:
    graph = Graph("frame")
    attrs = {"resize": [256, 256], "crop": [224, 224]}
    (frame,) = graph.add(
        "frame", [], attrs | {"scale": [1 / 255] * 3, "bias": [-0.5] * 3}, name="timed"
    )
    add_outputs(graph, frame)
    random = np.random.default_rng(2)
    image = random.integers(0, 256, (channels, height, width), dtype=np.uint8)
    if channels == 1:
        image = image[0]
    elif layout == "planar":
        image = image.transpose(1, 2, 0)
    else:
        image = np.ascontiguousarray(image.transpose(1, 2, 0))
    engine = engine_of(graph, precision, isa, folder)
    got, want = engine.predict(image)["network_map"], reference.run(graph, frame=image)
    error = np.abs(got - want["map"][0, 0]).max() / np.abs(want["map"]).max()
    if error > (1e-4 if precision == "f32" else 1e-2):
        raise SystemExit(f"[frame {layout}] {isa} {precision}: wrong by {error:.3g}")
    ms, _ = step_times(engine, image, ("timed",), runs)
    size = height * width * channels + 224 * 224 * 3 * (4 if precision == "f32" else 2)
    return {"ms": ms, "gflop": 0.0, "bytes": size, "error": float(error)}


def available(isa: str, folder: Path) -> bool:
    graph = Graph("probe")
    graph.output("y", graph.add("relu", [graph.input("x", (1,))])[0])
    write_test_plan(folder / "probe.plan", graph)
    try:
        _core.run_graph(str(folder / "probe.plan"), {"x": np.zeros(1, np.float32)}, isa=isa)
    except ArgumentError as error:
        print(error)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains it")
    parser.add_argument("--runs", type=int, default=30, metavar="N", help="runs of each (30)")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error("--runs must be at least 1")

    rows = []
    print(f"{machine()['processor']}, one thread, commit {commit()}")
    print(f"{'case':56} {'isa':7} {'type':5} {'us':>9} {'GFLOP/s':>8} {'GB/s':>7} {'error':>8}")

    def report(name: str, isa: str, precision: str, found: dict) -> None:
        us = found["ms"] * 1e3
        rate = f"{found['gflop'] / us * 1e6:8.1f}" if found["gflop"] else f"{'-':>8}"
        speed = found["bytes"] / us / 1e3
        print(
            f"{name:56} {isa:7} {precision:5} {us:9.1f} {rate} {speed:7.1f} {found['error']:8.1e}"
        )
        rows.append({"case": name, "isa": isa, "precision": precision, **found})

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        isas = [isa for isa in ISAS if available(isa, folder)]
        for isa in isas:
            for precision in ("f32", "bf16"):
                for case in CASES:
                    if case.hot and args.only in str(case):
                        found = time_case(case, precision, isa, args.runs, folder)
                        report(str(case), isa, precision, found)
                for frame in FRAMES:
                    name = f"frame-{frame[3]}-{frame[0]}x{frame[1]}"
                    if args.only in name:
                        found = time_frame(*frame, precision, isa, args.runs, folder)
                        report(name, isa, precision, found)
    if args.json:
        result = {"machine": machine(), "commit": commit(), "threads": 1, "runs": args.runs}
        with atomic_write(args.json) as file:
            file.write(json.dumps(result | {"rows": rows}, indent=1).encode())
        print(f"wrote {args.json}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AdfastError as error:
        sys.exit(f"{error}")
