"""What a plan may not say, though all its digests are right: limits, orders, numbers."""

from __future__ import annotations

import hashlib
import json
import os
import struct

import numpy as np
import pytest

import adfast
from adfast import _core, cli
from adfast.compiler import ops
from adfast.compiler.writer import GOLDEN_FORMATS, Golden, GoldenFrame, plan_fields, write_plan
from adfast.errors import CompileError
from adfast.plan_file import FLOAT, head, json_text, pieces, read_sections, table, text

COMPUTED, CONSTANT = 0, 1
FRAME = {"resize": [8, 8], "crop": [8, 8], "antialias": 1, "scale": [1.0] * 3, "bias": [0.0] * 3}
FIELDS = plan_fields(model="m", name="n", resize=[8, 8], crop=[8, 8])


def value(name: str, *shape: int, constant: tuple[int, int] | None = None, kind: int = 0) -> bytes:
    """A record of a value; `constant`: offset and size in the weights."""
    what = COMPUTED if constant is None else CONSTANT
    out = text(name) + struct.pack(f"<BBBB{len(shape)}q", kind, what, len(shape), 0, *shape)
    return out + (struct.pack("<QQ", *constant) if constant else b"")


def numbers(values) -> bytes:
    return struct.pack(f"<I{len(values)}i", len(values), *values)


def node(op: str, inputs, outputs, attrs: bytes | None = None) -> bytes:
    attrs = table({}) if attrs is None else attrs
    return text(op) + text(op) + numbers(inputs) + numbers(outputs) + attrs


def graph(values, nodes, outputs, inputs=()) -> bytes:
    out = struct.pack("<I", len(values)) + b"".join(values)
    out += struct.pack("<I", len(nodes)) + b"".join(nodes) + numbers(inputs)
    out += struct.pack("<I", len(outputs))
    return out + b"".join(text(role) + struct.pack("<i", place) for role, place in outputs)


VALUES = [value("f", 1, 3, 8, 8), value("m", 1, 1, 8, 8), value("s", 1)]
NODES = [
    node("frame", [], [0], table(FRAME)),
    node("reduce_mean", [0], [1], table({"axes": [1], "keepdims": 1})),
    node("reduce_max", [1], [2], table({"axes": [1, 2, 3], "keepdims": 0})),
]
OUTPUTS = [("map", 1), ("score", 2)]


def plan_of(**changed: bytes) -> bytes:
    sections = {
        "fields": table(FIELDS),
        "graph": graph(VALUES, NODES, OUTPUTS),
        "calibration": table({}),
        "golden": table({}) + struct.pack("<I", 0),
        "parity": b"{}",
        "provenance": b"{}",
        "weights": bytes(64),
    } | changed
    return b"".join(pieces(head(sections), sections))


def load(tmp_path, data: bytes):
    path = tmp_path / "a.plan"
    path.write_bytes(data)
    return adfast.load(path, threads=1, device="cpu")


def test_the_plan_that_the_others_change_runs(tmp_path):
    assert load(tmp_path, plan_of()).predict(np.full((4, 5), 7, np.uint8)).score == 7


def floats(key: str, number: float, *, many: bool = False) -> bytes:
    """A table of one number, which the writer would refuse."""
    if many:
        return struct.pack("<I", 1) + text(key) + struct.pack("<BI2d", 5, 2, 1.0, number)
    return struct.pack("<I", 1) + text(key) + struct.pack("<Bd", FLOAT, number)


MONO8, MONO12, RGB8 = (GOLDEN_FORMATS[name][0] for name in ("Mono8", "Mono12", "RGB8"))


def golden(pixel_format=MONO8, score=1.0, map_height=1, map_width=1, value=1.0):
    score_map = np.full(map_height * map_width, value, "<f4").tobytes()
    frame = struct.pack("<III", 1, 1, pixel_format) + bytes(1)
    frame += struct.pack("<fII", score, map_height, map_width) + score_map
    return table({}) + struct.pack("<I", 1) + frame


NAN, INF = float("nan"), float("inf")
HUGE = [value("h", 2**31 - 1, 2)]
REFUSED = {
    "an infinite attribute": (
        {"graph": graph(VALUES, [NODES[0][: -len(table(FRAME))] + floats("s", INF)], [])},
        "'s' of frame 'frame' is not a finite number",
    ),
    "a NaN in a list": (
        {"graph": graph(VALUES, [node("frame", [], [0], floats("scale", NAN, many=True))], [])},
        "'scale' of frame 'frame' is not a finite number",
    ),
    "a NaN in the fields": ({"fields": floats("map.sigma", NAN)}, "'map.sigma' of fields"),
    "a NaN threshold": ({"calibration": floats("threshold", NAN)}, "'threshold' of calibration"),
    "a threshold that f32 cannot hold": (
        {"calibration": table({"threshold": 1e39})},
        "expected a number that f32 holds",
    ),
    "a threshold that is a text": (
        {"calibration": table({"threshold": "0.5"})},
        "'threshold' is not a real number",
    ),
    "a golden score that is no number": ({"golden": golden(score=NAN)}, "not finite"),
    "a golden map that is no number": ({"golden": golden(value=INF)}, "not finite"),
    "a golden map without pixels": ({"golden": golden(map_width=0)}, "a golden map of 1x0"),
    "a golden tolerance that is no number": (
        {"golden": floats("tolerance.f32", NAN) + struct.pack("<I", 0)},
        "'tolerance.f32' of golden frames is not a finite",
    ),
    "a golden frame as large as the address space": (
        {"golden": table({}) + struct.pack("<IIII", 1, 65535, 65535, RGB8) + bytes(12)},
        "expected 12884508675 more bytes, got 12",
    ),
    "a golden frame of two bytes a pixel, of which there is one": (
        {"golden": table({}) + struct.pack("<IIII", 1, 65535, 65535, MONO12) + bytes(12)},
        "expected 8589672450 more bytes, got 12",
    ),
    "a golden frame in a format that is none": (
        {"golden": golden(pixel_format=3)},
        "a golden frame of 1x1 in pixel format 3, expected",
    ),
    "more elements than are counted": (
        {"graph": graph([*VALUES, *HUGE], NODES, OUTPUTS)},
        "value 'h' has too many elements, expected at most 2147483647",
    ),
    "a product of sides that wraps around": (
        {"graph": graph([*VALUES, value("h", *[2**30] * 8)], NODES, OUTPUTS)},
        "too many elements",
    ),
    "a side of -1": (
        {"graph": graph([*VALUES, value("h", -1)], NODES, OUTPUTS)},
        "a dimension of -1, expected 1 to",
    ),
    "a constant whose end wraps around": (
        {"graph": graph([*VALUES, value("c", 16, constant=(2**64 - 64, 64))], NODES, OUTPUTS)},
        "lies at 18446744073709551552",
    ),
    "values by the million": (
        {"graph": struct.pack("<I", 2**20 + 1) + bytes(8 * 2**20 + 8)},
        "1048577 values, expected at most 1048576",
    ),
    "an output twice": (
        {"graph": graph(VALUES, NODES, [*OUTPUTS, ("map", 2)])},
        "output 'map' twice",
    ),
    "a node before what it reads": (
        {"graph": graph(VALUES, [NODES[0], NODES[2], NODES[1]], OUTPUTS)},
        "value 'm' is used before it is set",
    ),
    "a node that reads itself": (
        {"graph": graph(VALUES, [NODES[0], node("relu", [1], [1])], [])},
        "value 'm' is used before it is set",
    ),
    "provenance that is not text": ({"provenance": b"\xff"}, "'provenance' is not UTF-8"),
    "parity that is not text": ({"parity": b"\xc0\x80"}, "'parity' is not UTF-8"),
    "a detector with an input": (
        {"graph": graph([*VALUES, value("x", 1)], NODES, OUTPUTS, [3])},
        "1 inputs, expected none",
    ),
    "two frames": (
        {
            "graph": graph(
                [*VALUES, value("g", 1, 3, 9, 9)],
                [
                    *NODES,
                    node("frame", [], [3], table(FRAME | {"resize": [9, 9], "crop": [9, 9]})),
                ],
                OUTPUTS,
            )
        },
        "2 'frame' ops, expected one",
    ),
    "a product of one operand": (
        {
            "graph": graph(
                [*VALUES, value("p", 1, 1, 8, 8)], [*NODES, node("mul", [1], [3])], OUTPUTS
            )
        },
        "takes 2 to 2 inputs, got 1",
    ),
    "a view without a result": (
        {"graph": graph(VALUES, [*NODES, node("tokens", [0], [])], OUTPUTS)},
        "has 1 outputs, got 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    changed, message = REFUSED[case]
    with pytest.raises(adfast.PlanError) as caught:
        load(tmp_path, plan_of(**changed))
    assert message in str(caught.value)


def places():
    """Every place of an op where the table of ops wants a computed value."""
    for op in ops.table.values():
        if not op.engine or op.mixed:
            continue
        for place, operand in enumerate(op.inputs):
            if not operand.constant and not (op.name in ops.ARITHMETIC and place == 1):
                yield op, place


@pytest.mark.parametrize(("op", "place"), [*places()], ids=lambda x: getattr(x, "name", x))
def test_a_constant_is_refused_where_a_computed_value_is_wanted(tmp_path, op, place):
    """Constants have no place in the arena: an operator would read where nothing is."""
    shape = (1, 16, 1, 1)
    values = [*VALUES, value("c", *shape, constant=(0, 64)), value("x", *shape)]
    values += [value(f"out{i}", *shape) for i in range(3)]
    inputs = [
        3 if i == place else (3 if op.inputs[i].constant else 4) for i in range(len(op.inputs))
    ]
    count = 3 if op.name in ("score_map", "projector_score_map") else 1
    nodes = [node(op.name, inputs, range(5, 5 + count))]
    path = tmp_path / "a.plan"
    path.write_bytes(plan_of(graph=graph(values, nodes, [("y", 5)], [4])))
    with pytest.raises(adfast.PlanError, match=f"input {place}: expected a computed value"):
        _core.run_graph(str(path), {"x": np.zeros(shape, np.float32)})


def test_a_frame_has_no_place_among_plain_inputs(tmp_path):
    path = tmp_path / "a.plan"
    path.write_bytes(plan_of())
    with pytest.raises(adfast.PlanError, match="takes frames"):
        _core.run_graph(str(path), {})


def test_bytes_behind_a_sections_name_are_refused(tmp_path):
    data = bytearray(plan_of())
    assert data[64:70] == b"fields"
    data[64 + 15] = 1
    data[32:64] = hashlib.sha256(data[:32] + data[64 : 64 * 8]).digest()
    with pytest.raises(adfast.PlanError, match="name of section 0 is not padded"):
        load(tmp_path, bytes(data))


def test_a_file_larger_than_any_plan_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.plan"
    with open(path, "wb") as file:
        file.write(plan_of())
        file.truncate(2**34 + 1)  # sparse
    with pytest.raises(adfast.PlanError, match="expected at most 17179869184"):
        adfast.load(path)


def test_a_large_file_that_is_no_plan_takes_no_memory(tmp_path):
    path = tmp_path / "large.plan"
    with open(path, "wb") as file:
        file.truncate(2**33)
    with pytest.raises(adfast.PlanError, match="does not begin with ADFPLAN"):
        adfast.load(path)


def test_what_is_no_file_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(adfast.AdfastError, match="not a regular file"):
            adfast.load(path)


def test_deep_json_is_text(tmp_path, capsys):
    path = tmp_path / "a.plan"
    path.write_bytes(plan_of(provenance=b"[" * 200_000))
    assert cli.main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"].startswith("[[")


def test_names_do_not_command_the_terminal(tmp_path, capsys):
    """ESC ] 0 ; sets a terminal's title, CR rewrites a line."""
    path = tmp_path / "a.plan"
    evil = FIELDS | {"name": "good\x1b]0;title\x07\rfine\u202e\u009b"}
    path.write_bytes(
        plan_of(fields=table(evil), graph=graph(VALUES, [node("e\x1bvil", [], [0])], []))
    )
    assert cli.main(["info", str(path), "--graph"]) == 0
    assert cli.main(["selftest", str(path)]) == 1
    said = capsys.readouterr()
    for text_said in (said.out, said.err):
        assert text_said.replace("\n", "").isprintable()
    assert "good\\x1b]0;title\\x07\\rfine" in said.out


def test_the_writer_refuses_what_the_reader_does(tmp_path, make_tiny_graph):
    with pytest.raises(CompileError, match="expected finite numbers"):
        table({"threshold": NAN})
    with pytest.raises(CompileError, match="expected finite numbers"):
        table({"alpha_scale": [1.0, INF]})
    frame = np.zeros((2, 2), np.uint8)

    for score, score_map, message in (
        (NAN, np.ones((2, 2)), "not finite"),
        (1.0, np.full((2, 2), NAN), "not finite"),
        (1.0, np.ones((0, 2)), "expected"),
    ):
        with pytest.raises(CompileError, match=message):
            write_plan(
                tmp_path / "a.plan",
                make_tiny_graph(),
                FIELDS,
                {},
                Golden([GoldenFrame(frame, score, score_map)]),
                {},
                {},
            )
    assert not list(tmp_path.iterdir())


def test_sections_come_out_as_they_went_in(tmp_path):
    path = tmp_path / "a.plan"
    path.write_bytes(plan_of(provenance=json_text({"b": 1, "a": [2.5]})))
    sections = read_sections(_core.Plan(str(path)))
    assert b"".join(pieces(head(sections), sections)) == path.read_bytes()
