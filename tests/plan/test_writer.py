import hashlib
import json
import struct

import numpy as np
import pytest

from adfast.compiler.graph import Graph
from adfast.compiler.writer import Golden, GoldenFrame, plan_fields, write_plan, write_test_plan
from adfast.errors import AdfastError, CompileError

SECTIONS = ["fields", "graph", "calibration", "golden", "parity", "provenance", "weights"]


class Reader:
    """As little of a reader as the tests need."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, fmt):
        values = struct.unpack_from("<" + fmt, self.data, self.at)
        self.at += struct.calcsize("<" + fmt)
        return values if len(values) != 1 else values[0]

    def text(self):
        size = self.take("I")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def table(self):
        found = {}
        for _ in range(self.take("I")):
            key, kind = self.text(), self.take("B")
            if kind <= 2:
                found[key] = self.take("_qd"[kind])
            elif kind == 3:
                found[key] = self.text()
            else:
                count = self.take("I")
                found[key] = [self.take("qd"[kind - 4]) for _ in range(count)]
        return found

    def ids(self):
        return [self.take("i") for _ in range(self.take("I"))]


def read_sections(data):
    magic, version, oldest, size, count, zero = struct.unpack_from("<8sIIQII", data)
    assert (magic, version, oldest, size, count, zero) == (
        b"ADFPLAN\x1a",
        1,
        1,
        len(data),
        len(SECTIONS),
        0,
    )
    table = data[64 : 64 + 64 * count]
    assert data[32:64] == hashlib.sha256(data[:32] + table).digest()
    found, end = {}, 64 + 64 * count
    for index in range(count):
        name, offset, size, digest = struct.unpack_from("<16sQQ32s", table, 64 * index)
        content = data[offset : offset + size]
        assert offset % 64 == 0 and 0 <= offset - end < 64
        assert not any(data[end:offset])
        assert hashlib.sha256(content).digest() == digest
        found[name.rstrip(b"\0").decode()] = content
        end = offset + size
    assert end == len(data) and list(found) == SECTIONS
    return found


def small_graph():
    graph = Graph("small")
    x = graph.input("x", (1, 2, 5, 4))
    w = graph.constant("w", np.arange(36).reshape(2, 2, 3, 3))
    b = graph.constant("b", [1.0, 2.0])
    attrs = {"pads": [1, 1, 1, 1], "activation": "relu"}
    (y,) = graph.add("conv2d", [x, w, None, x], attrs, name="first")
    (z,) = graph.add("conv2d", [y, graph.constant("w2", w.array), b], name="second")
    graph.output("z", z)
    graph.output("y", y)
    return graph


def full_plan(path, **changes):
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    golden = Golden([GoldenFrame(frame, 1.5, np.ones((4, 5)))], 1e-3, 0.25, "pytorch")
    parts = {
        "fields": plan_fields(model="m", name="n", resize=(7, 8), crop=[5, 6], sigma=2),
        "calibration": {"threshold": 0.5, "images": 3, "alpha_scale": [1.0, 2.0], "source": "s"},
        "golden": golden,
        "parity": {"b": 1, "a": {"x": 0.5}},
        "provenance": {"created": "2000-01-01T00:00:00+00:00"},
    }
    write_plan(path, small_graph(), **{**parts, **changes})


def test_every_section_reads_back(tmp_path):
    path = tmp_path / "a.plan"
    full_plan(path)
    sections = read_sections(path.read_bytes())
    fields = Reader(sections["fields"]).table()
    assert fields["frame.resize"] == [7, 8] and fields["map.sigma"] == 2.0
    assert fields["model"] == "m" and fields["precision"] == "f32"
    assert Reader(sections["calibration"]).table() == {
        "threshold": 0.5,
        "images": 3,
        "alpha_scale": [1.0, 2.0],
        "source": "s",
    }
    golden = Reader(sections["golden"])
    assert golden.table() == {
        "tolerance.f32": 1e-3,
        "tolerance.bf16": 0.25,
        "reference": "pytorch",
    }
    assert golden.take("I") == 1 and golden.take("III") == (2, 3, 0x02180014)
    assert bytes(golden.data[golden.at : golden.at + 18]) == bytes(range(18))
    golden.at += 18
    assert golden.take("fII") == (1.5, 4, 5)
    assert golden.take("20f") == (1.0,) * 20 and golden.at == len(golden.data)
    assert json.loads(sections["parity"]) == {"a": {"x": 0.5}, "b": 1}


def test_an_index_is_stored_as_integers(tmp_path):
    graph = Graph("windows")
    rows = graph.index("rows", [[0, 4, 2]])
    (y,) = graph.add("window_gather", [graph.input("x", (1, 5, 3)), rows], name="y")
    graph.output("y", y)
    path = tmp_path / "a.plan"
    write_test_plan(path, graph)
    sections = read_sections(path.read_bytes())
    reader = Reader(sections["graph"])
    assert reader.take("I") == 3
    for name, kind, shape in (("x", (0, 0, 3), (1, 5, 3)), ("rows", (1, 1, 2), (1, 3))):
        assert (reader.text(), reader.take("3BB")[:3]) == (name, kind)
        assert reader.take(f"{len(shape)}q") == shape
    offset, size = reader.take("QQ")
    assert struct.unpack("<3i", sections["weights"][offset : offset + size]) == (0, 4, 2)


def test_the_graph_reads_back(tmp_path):
    path = tmp_path / "a.plan"
    full_plan(path)
    sections = read_sections(path.read_bytes())
    reader, weights = Reader(sections["graph"]), sections["weights"]
    values, places = [], {}
    for _ in range(reader.take("I")):
        name, (dtype, kind, rank, zero) = reader.text(), reader.take("BBBB")
        dims = tuple(reader.take("q") for _ in range(rank))
        assert (dtype, zero) == (0, 0)
        values.append(name)
        if kind == 1:
            places[name] = reader.take("QQ")
            offset, size = places[name]
            array = np.frombuffer(weights[offset : offset + size], "<f4").reshape(dims)
            assert offset % 64 == 0
            if name == "b":
                assert array.tolist() == [1.0, 2.0]
    assert values == ["x", "w", "first", "w2", "b", "second"]
    assert places["w"] == places["w2"], "equal constants are stored once"
    assert places["b"] == (192, 8) and len(weights) == 200
    nodes = []
    for _ in range(reader.take("I")):
        nodes.append((reader.text(), reader.text(), reader.ids(), reader.ids(), reader.table()))
    assert [node[:4] for node in nodes] == [
        ("conv2d", "first", [0, 1, -1, 0], [2]),
        ("conv2d", "second", [2, 3, 4, -1], [5]),
    ]
    assert nodes[0][4] == {
        "strides": [1, 1],
        "pads": [1, 1, 1, 1],
        "dilations": [1, 1],
        "groups": 1,
        "activation": "relu",
    }
    assert reader.ids() == [0]
    outputs = [(reader.text(), reader.take("i")) for _ in range(reader.take("I"))]
    assert outputs == [("z", 5), ("y", 2)] and reader.at == len(reader.data)


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    for name in "ab":
        full_plan(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_graph_without_constants(tmp_path):
    graph = Graph("r")
    graph.output("y", graph.add("relu", [graph.input("x", (1, 3))])[0])
    write_test_plan(tmp_path / "a.plan", graph)
    assert read_sections((tmp_path / "a.plan").read_bytes())["weights"] == b""


def test_a_test_plan_takes_the_frame_of_its_graph(tmp_path):
    graph = Graph("f")
    attrs = {"resize": [6, 7], "crop": [4, 5], "scale": [1, 1, 1], "bias": [0, 0, 0]}
    graph.output("y", graph.add("frame", [], attrs)[0])
    write_test_plan(tmp_path / "a.plan", graph)
    fields = Reader(read_sections((tmp_path / "a.plan").read_bytes())["fields"]).table()
    assert fields["frame.crop"] == [4, 5]


SQUARE = np.ones((2, 2))


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.plan"
    path.write_bytes(b"old")
    bad = [
        {"calibration": {"threshold": None}},
        {"fields": {"names": ["a"]}},
        {"golden": Golden([GoldenFrame(np.zeros((2, 2)), 0.0, SQUARE)])},
        {"golden": Golden([GoldenFrame(np.zeros((2, 2), np.uint8), 0.0, np.ones(2))])},
        {"golden": Golden([GoldenFrame(np.zeros((2, 2), np.uint8), 0.0, SQUARE, "Mono12")])},
        {"golden": Golden([GoldenFrame(np.zeros((2, 2), np.uint16), 0.0, SQUARE, "Mono14")])},
        {"golden": Golden([GoldenFrame(np.zeros((2, 2, 1), np.uint8), 0.0, SQUARE)])},
    ]
    for changes in bad:
        with pytest.raises(CompileError):
            full_plan(path, **changes)
    with pytest.raises(ValueError, match="JSON"):
        full_plan(path, parity={"x": float("nan")})
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.plan"]
    with pytest.raises(AdfastError, match="cannot write"):
        full_plan(tmp_path / "absent" / "a.plan")


def test_ops_of_the_compiler_are_refused(tmp_path):
    graph = Graph("e")
    graph.output("y", graph.add("erf", [graph.input("x", (1, 3))])[0])
    with pytest.raises(CompileError, match="erf is not an op of the engine"):
        write_test_plan(tmp_path / "a.plan", graph)
