"""A plan is a stranger: every cut and every flipped bit must be an error, never a crash."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest

import adfast
from adfast import _core
from adfast.compiler.graph import Graph
from adfast.compiler.writer import write_test_plan


@pytest.fixture(scope="module")
def plan_bytes(tiny_plan):
    return tiny_plan.read_bytes()


def refused(tmp_path, data: bytes) -> str:
    path = tmp_path / "hostile.plan"
    path.write_bytes(data)
    with pytest.raises(adfast.AdfastError) as caught:
        _core.read_plan(str(path))
    return str(caught.value)


def resealed(data: bytearray, section: str) -> bytes:
    """Make the hashes right again after `section` was altered, so that the parser is reached."""
    count = struct.unpack_from("<I", data, 24)[0]
    for index in range(count):
        at = 64 + 64 * index
        name, offset, size = struct.unpack_from("<16sQQ", data, at)
        if name.rstrip(b"\0").decode() == section:
            data[at + 32 : at + 64] = hashlib.sha256(data[offset : offset + size]).digest()
    end = 64 + 64 * count
    data[32:64] = hashlib.sha256(data[:32] + data[64:end]).digest()
    return bytes(data)


def place_of(data: bytes, section: str) -> tuple[int, int]:
    for index in range(struct.unpack_from("<I", data, 24)[0]):
        name, offset, size = struct.unpack_from("<16sQQ", data, 64 + 64 * index)
        if name.rstrip(b"\0").decode() == section:
            return offset, size
    raise AssertionError(section)


def test_the_untouched_plan_loads(tiny_plan):
    assert _core.read_plan(str(tiny_plan))["fields"]["model"] == "tiny"


def test_every_truncated_prefix_is_refused(tmp_path, plan_bytes):
    for length in range(len(plan_bytes)):
        refused(tmp_path, plan_bytes[:length])


def test_every_flipped_byte_is_refused(tmp_path, plan_bytes):
    random = np.random.default_rng(0)
    for position in range(len(plan_bytes)):
        data = bytearray(plan_bytes)
        data[position] ^= 1 << int(random.integers(8))
        refused(tmp_path, bytes(data))


def test_appended_bytes_are_refused(tmp_path, plan_bytes):
    assert "bytes" in refused(tmp_path, plan_bytes + b"\0")


@pytest.mark.parametrize("section", ["fields", "graph", "calibration", "golden"])
def test_altered_records_with_right_hashes_never_crash(tmp_path, plan_bytes, section):
    """Someone who recomputes the hashes reaches the parser and the engine's own checks."""
    random = np.random.default_rng(1)
    offset, size = place_of(plan_bytes, section)
    path = tmp_path / "hostile.plan"
    frame = np.zeros((20, 20), np.uint8)
    outcomes = {"loaded": 0, "refused": 0}
    for _ in range(1500):
        data = bytearray(plan_bytes)
        for _ in range(int(random.integers(1, 4))):
            value = int(random.choice([0, 1, 127, 128, 255, int(random.integers(256))]))
            data[offset + int(random.integers(size))] = value
        path.write_bytes(resealed(data, section))
        try:
            adfast.load(path, threads=1).predict(frame)
            outcomes["loaded"] += 1
        except (adfast.AdfastError, MemoryError):
            outcomes["refused"] += 1
    assert outcomes["refused"] > 0


def test_text_that_is_not_utf8_is_refused(tmp_path, plan_bytes):
    """Right where Python's own strict decoder refuses it."""
    random = np.random.default_rng(2)
    offset, size = place_of(plan_bytes, "fields")
    at = plan_bytes.index(b"tiny", offset, offset + size)
    path = tmp_path / "text.plan"
    edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF]
    edges += [0xF0, 0xF4, 0xF5, 0xFF]
    outcomes = set()
    for _ in range(1000):
        text = bytes(random.choice(edges, 4).tolist())
        data = bytearray(plan_bytes)
        data[at : at + 4] = text
        path.write_bytes(resealed(data, "fields"))
        try:
            expected = text.decode()
        except UnicodeDecodeError:
            expected = None
            with pytest.raises(adfast.PlanError, match="not UTF-8"):
                _core.read_plan(str(path))
        else:
            assert _core.read_plan(str(path))["fields"]["model"] == expected
        outcomes.add(expected is None)
    assert outcomes == {True, False}


@pytest.fixture
def windows_plan(tmp_path):
    graph = Graph("windows")
    x = graph.input("x", (1, 5, 3))
    rows = graph.index("rows", [[1, 4, 2]])
    (y,) = graph.add("window_gather", [x, rows], name="gathered")
    weight = graph.constant("weight", np.ones((2, 3)))
    graph.output("y", graph.add("linear", [y, weight], name="product")[0])
    path = tmp_path / "windows.plan"
    write_test_plan(path, graph)
    return path


def run_windows(path, data: bytes):
    path.write_bytes(data)
    return _core.run_graph(str(path), {"x": np.ones((1, 5, 3), np.float32)})


@pytest.mark.parametrize("row", [-1, 5, 2**31 - 1, -(2**31)])
def test_an_index_outside_the_rows_is_refused(windows_plan, row):
    data = bytearray(windows_plan.read_bytes())
    assert run_windows(windows_plan, bytes(data))["y"].max() == 3
    offset, _ = place_of(data, "weights")
    at = data.index(struct.pack("<3i", 1, 4, 2), offset)
    struct.pack_into("<i", data, at + 8, row)
    with pytest.raises(adfast.AdfastError, match=f"index: expected 0 to 4, got {row}"):
        run_windows(windows_plan, resealed(data, "weights"))


@pytest.mark.parametrize(
    ("name", "element", "message"),
    [
        ("rows", 0, "gathered.*input 1: expected a constant of integers, got numbers"),
        ("weight", 1, "product.*input 1: expected numbers, got integers"),
        ("x", 1, "value 'x' has an unknown type"),
        ("rows", 2, "value 'rows' has an unknown type"),
    ],
)
def test_integers_stand_where_an_index_is_wanted_and_nowhere_else(
    windows_plan, name, element, message
):
    data = bytearray(windows_plan.read_bytes())
    offset, _ = place_of(data, "graph")
    stored = struct.pack("<I", len(name)) + name.encode()
    data[data.index(stored, offset) + len(stored)] = element
    with pytest.raises(adfast.AdfastError, match=message):
        run_windows(windows_plan, resealed(data, "graph"))


@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_a_quantised_step_that_lacks_operands_is_refused(part, tmp_path, monkeypatch):
    """Its shapes are looked at before it is made."""
    path, graph = tmp_path / "bare.plan", Graph("bare")
    x, weight = graph.input("x", (1, 8, 5, 5)), graph.constant("w", np.ones((2, 8, 3, 3)))
    attrs = {"pads": [1] * 4, "input_scale": 0.1, "input_zero": 7}
    (y,) = graph.add("conv2d", [x, weight], attrs, name="step")
    graph.output("y", graph.add("relu", [y])[0])
    node = graph.nodes[0]
    if part == "inputs":
        node.inputs = node.inputs[:1]
    else:
        node.outputs = []
    monkeypatch.setattr(Graph, "check", lambda self, **_: None)
    write_test_plan(path, graph)
    image = {"x": np.ones((1, 8, 5, 5), np.float32)}
    with pytest.raises(adfast.AdfastError, match="takes 2 to 4 inputs|has 1 outputs|value"):
        _core.run_graph(str(path), image, precision="int8")


def test_a_newer_format_says_what_to_do(tmp_path, plan_bytes):
    data = bytearray(plan_bytes)
    struct.pack_into("<II", data, 8, 9, 8)
    message = refused(tmp_path, resealed(data, "fields"))
    assert "upgrade adfast" in message and "format 9" in message


def test_a_newer_format_that_old_readers_may_read_loads(tmp_path, plan_bytes):
    data = bytearray(plan_bytes)
    struct.pack_into("<II", data, 8, 9, 1)
    path = tmp_path / "newer.plan"
    path.write_bytes(resealed(data, "fields"))
    assert _core.read_plan(str(path))["version"] == 9


def test_not_a_plan(tmp_path):
    assert "not a plan" in refused(tmp_path, b"PNG" * 100)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(adfast.AdfastError, match=r"cannot open plan .*No such file"):
        adfast.load(tmp_path / "none.plan")
    with pytest.raises(adfast.AdfastError, match="not a regular file"):
        adfast.load(tmp_path)


@pytest.mark.parametrize(
    "scale", [0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30, float("-inf"), 5e-324]
)
def test_levels_that_make_no_sense_are_refused(tmp_path, scale):
    path, graph = tmp_path / "levels.plan", Graph("levels")
    x, weight = graph.input("x", (1, 8, 5, 5)), graph.constant("w", np.ones((2, 8, 1, 1)))
    attrs = {"input_scale": 0.123, "input_zero": 77}
    graph.output("y", graph.add("conv2d", [x, weight], attrs, name="step")[0])
    write_test_plan(path, graph)
    data = path.read_bytes()
    image = {"x": np.ones((1, 8, 5, 5), np.float32)}
    assert np.isfinite(_core.run_graph(str(path), image, precision="int8")["y"]).all()
    at = data.index(struct.pack("<d", 0.123))
    altered = bytearray(data)
    altered[at : at + 8] = struct.pack("<d", scale)
    why = (
        "is quantised with scale" if np.isfinite(scale) else "'input_scale' of conv2d 'step' is not"
    )
    assert why in refused(tmp_path, resealed(altered, "graph"))
    for zero in (-1, 256, 2**40):
        at = data.index(struct.pack("<q", 77))
        altered = bytearray(data)
        altered[at : at + 8] = struct.pack("<q", zero)
        assert "expected 1e-18 to 1e18 and 0 to 255" in refused(
            tmp_path, resealed(altered, "graph")
        )
    # On another op, of another type, or one of the two alone.
    for old, new in [(b"conv2d", b"conv9d"), (b"input_zero", b"input_xero")]:
        at = data.index(old, place_of(data, "graph")[0])
        altered = bytearray(data)
        altered[at : at + len(old)] = new
        assert "input" in refused(tmp_path, resealed(altered, "graph"))
