"""Write the seeds of the fuzzers: python make_corpus.py FOLDER.

FOLDER/plan holds small plans, one of each op among them, FOLDER/frame descriptions of frames as
fuzz_frame reads them, FOLDER/tiny.plan and FOLDER/tiles.plan are the plans it runs.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "ops"), str(TESTS / "cpp")]
from cases import CASES  # noqa: E402
from conftest import tiny_graph  # noqa: E402
from make_plans import chain_graph  # noqa: E402

from adfast import _core  # noqa: E402
from adfast.compiler.writer import (  # noqa: E402
    Golden,
    GoldenFrame,
    plan_fields,
    write_plan,
    write_test_plan,
)
from adfast.plan_file import TENSORRT, read_sections, write_sections  # noqa: E402
from adfast.tensorrt.target import engine_section  # noqa: E402

MOST_BYTES = 6000


def write_plans(folder: Path) -> None:
    fields = plan_fields(model="tiny", name="tiny", resize=[18, 20], crop=[16, 16])
    frame, score_map = np.full((3, 4, 3), 9, np.uint8), np.ones((2, 2), np.float32)
    deep = GoldenFrame(np.full((3, 4), 900, np.uint16), 1.0, score_map, "Mono10")
    golden = Golden(
        [GoldenFrame(frame, 1.0, score_map), deep], reference="none", tolerance_int8=0.1
    )
    calibration = {"threshold": 0.05, "max_fpr": 0.01, "images": 3, "alpha_scale": [1.0, 2.0]}
    write_plan(folder / "tiny.plan", tiny_graph(), fields, calibration, golden, {}, {})
    sections = read_sections(_core.Plan(str(folder / "tiny.plan")))
    info = {"version": "11.4.0", "capability": "9.0", "precision": "f16"}
    sections[TENSORRT] = engine_section(info, b"an engine")
    write_sections(folder / "engine.plan", sections)
    graph = tiny_graph()
    for node in graph.nodes:
        if node.op == "conv2d":
            node.attrs |= {"input_scale": 0.05, "input_zero": 100}
    fields["precision"] = "int8"
    write_plan(folder / "int8.plan", graph, fields, {}, Golden(), {}, {})
    fields["precision"] = "bf16"
    write_plan(folder / "bf16.plan", tiny_graph(), fields, {}, Golden(), {}, {})
    fields["precision"] = "f32"
    write_plan(folder / "chain.plan", chain_graph(), fields, {}, Golden(), {}, {})
    for number, case in enumerate(CASES):
        graph, _ = case.graph(case.arrays())
        path = folder / f"{number:03}-{case.op}.plan"
        if sum(np.prod(value.shape, dtype=int) for value in graph.values()) > 2**18:
            continue
        write_test_plan(path, graph)
        if path.stat().st_size > MOST_BYTES:
            path.unlink()


def write_frames(folder: Path) -> None:
    pixels = bytes(range(0, 250, 7))
    for choice in range(10):  # the formats
        for shape in (0, 24, 58, 62):  # tight, with maps, with stride, upside down
            data = struct.pack("<BBBB", choice, shape, 19, 23)
            data += struct.pack("<h", 5) if shape & 2 else b""
            (folder / f"{choice}-{shape}").write_bytes(data + pixels)
        for shape in (64 + 8, 64 + 128 + 8, 128 + 8):  # a part and a mask, tiles
            data = struct.pack("<BBBB", choice, shape, 61, 70)
            data += struct.pack("<B4hB", 3, 3, 2, 50, 60, 7) if shape & 64 else b""
            (folder / f"{choice}-{shape}").write_bytes(data + pixels)
    (folder / "large").write_bytes(struct.pack("<BBii", 0, 1, 32769, 7))
    (folder / "unknown").write_bytes(struct.pack("<BBIBB", 250, 0, 0x02180016, 4, 4))


def main() -> None:
    folder = Path(sys.argv[1])
    for name, write in (("plan", write_plans), ("frame", write_frames)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        write(folder / name)
    fields = plan_fields(model="tiny", name="tiny", resize=[18, 20], crop=[16, 16])
    for name, more in (("tiny", {}), ("tiles", {"tile.size": [24, 32], "tile.overlap": 5})):
        write_plan(folder / f"{name}.plan", tiny_graph(), fields | more, {}, Golden(), {}, {})


if __name__ == "__main__":
    main()
