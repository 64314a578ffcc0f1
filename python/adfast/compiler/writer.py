"""The plan file: all the engine needs, in one file that can be checked before it is believed.

Little-endian. A header of 64 bytes, a table of sections (name, offset, size, SHA-256), then the
sections: fields, graph, calibration, golden, parity, provenance, weights. Each begins at a multiple
of 64 bytes, so that weights can be used from the mapped file; the gaps are zeros. The same
arguments give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adfast.compiler import ops
from adfast.compiler.graph import Graph, Value
from adfast.errors import CompileError
from adfast.files import atomic_write

MAGIC = b"ADFPLAN\x1a"
VERSION = 1
OLDEST_READER = 1
ALIGNMENT = 64
FLOAT32, INT32 = 0, 1
ACTIVATION, CONSTANT = 0, 1
INT, FLOAT, STR, INTS, FLOATS = 1, 2, 3, 4, 5


@dataclass
class GoldenFrame:
    """A frame and what the reference makes of it.

    frame: uint8 [h,w,1] or [h,w,3]. score: raw. map: float32 [mh,mw] at the network's resolution.
    """

    frame: np.ndarray
    score: float
    map: np.ndarray


@dataclass
class Golden:
    """Golden frames, and the |map - expected| allowed as a fraction of the largest expected."""

    frames: Sequence[GoldenFrame] = ()
    tolerance_f32: float = 1e-3
    tolerance_bf16: float = 0.1
    reference: str = "none"
    tolerance_int8: float | None = None  # None: the graph is not quantised


def write_plan(
    path: str | os.PathLike[str],
    graph: Graph,
    fields: Mapping[str, Any],
    calibration: Mapping[str, Any],
    golden: Golden,
    parity: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write a plan file; nothing is left behind when it fails.

    Args:
        path: the file; it is replaced only when the new one is complete.
        graph: a graph of engine ops.
        fields: a flat table of int, float, str, and lists of int or float; see `plan_fields`.
        calibration: a flat table alike.
        golden: frames for the self test.
        parity: a JSON object; its keys are written sorted.
        provenance: a JSON object alike.

    Raises:
        CompileError: the graph is not one the engine runs.
        AdfastError: the file cannot be written.
    """
    graph.check(engine_only=True)
    weights = _Weights()
    sections = [
        ("fields", _table(fields)),
        ("graph", _graph(graph, weights)),
        ("calibration", _table(calibration)),
        ("golden", _golden(golden)),
        ("parity", _json(parity)),
        ("provenance", _json(provenance)),
        ("weights", bytes(weights.data)),
    ]
    offset = _aligned(64 + 64 * len(sections))
    table, body = b"", b""
    for name, data in sections:
        body += b"\0" * (offset - 64 - 64 * len(sections) - len(body)) + data
        digest = hashlib.sha256(data).digest()
        table += struct.pack("<16sQQ32s", name.encode(), offset, len(data), digest)
        end = offset + len(data)
        offset = _aligned(end)
    header = struct.pack("<8sIIQII", MAGIC, VERSION, OLDEST_READER, end, len(sections), 0)
    with atomic_write(path) as file:
        file.write(header + hashlib.sha256(header + table).digest() + table + body)


def write_test_plan(path: str | os.PathLike[str], graph: Graph) -> None:
    """Write a graph with the least of everything else, to run it with plain inputs."""
    frame = next((node.attrs for node in graph.nodes if node.op == "frame"), {})
    fields = plan_fields(
        model="test",
        name=graph.name,
        resize=frame.get("resize", [1, 1]),
        crop=frame.get("crop", [1, 1]),
        antialias=frame.get("antialias", 1),
    )
    write_plan(path, graph, fields, {}, Golden(), {}, {})


def plan_fields(
    *,
    model: str,
    name: str,
    resize: Sequence[int],
    crop: Sequence[int],
    antialias: int = 1,
    precision: str = "f32",
    upsample: str = "none",
    align_corners: int = 0,
    smoothing: str = "none",
    sigma: float = 0.0,
    size: int = 0,
    border: str = "reflect",
    reduction: str = "max",
    pool: int = 1,
    config: str = "{}",
    tile: Sequence[int] = (),
    overlap: int = 0,
) -> dict[str, Any]:
    """Make the table of the section "fields", keys as the engine reads them.

    `tile` is (height, width) in pixels of the frame; empty: frames are inspected whole.
    """
    tiles = {"tile.size": [int(side) for side in tile], "tile.overlap": int(overlap)}
    return {
        "model": model,
        "name": name,
        "precision": precision,
        "frame.resize": [int(side) for side in resize],
        "frame.crop": [int(side) for side in crop],
        "frame.antialias": int(antialias),
        "frame.interpolation": "bilinear",
        "frame.color": "rgb",
        "map.upsample": upsample,
        "map.align_corners": int(align_corners),
        "map.smoothing": smoothing,
        "map.sigma": float(sigma),
        "map.size": int(size),
        "map.border": border,
        "score.reduction": reduction,
        "score.pool": int(pool),
        "config": config,
        **(tiles if tile else {}),
    }


class _Weights:
    """The section "weights": constants at multiples of 64 bytes, equal ones stored once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._places: dict[bytes, tuple[int, int]] = {}

    def place(self, array: np.ndarray) -> tuple[int, int]:
        raw = np.asarray(array, dtype="<i4" if array.dtype == np.int32 else "<f4").tobytes()
        digest = hashlib.sha256(raw).digest()
        if digest not in self._places:
            self.data += b"\0" * (_aligned(len(self.data)) - len(self.data))
            self._places[digest] = (len(self.data), len(raw))
            self.data += raw
        return self._places[digest]


def _graph(graph: Graph, weights: _Weights) -> bytes:
    values = graph.values()
    index = {value: number for number, value in enumerate(values)}

    def ids(operands: Sequence[Value | None]) -> bytes:
        numbers = [-1 if value is None else index[value] for value in operands]
        return struct.pack(f"<I{len(numbers)}i", len(numbers), *numbers)

    out = bytearray(struct.pack("<I", len(values)))
    for value in values:
        kind = CONSTANT if value.is_constant else ACTIVATION
        rank = len(value.shape)
        element = INT32 if value.array is not None and value.array.dtype == np.int32 else FLOAT32
        out += _str(value.name) + struct.pack(f"<BBBB{rank}q", element, kind, rank, 0, *value.shape)
        if value.array is not None:
            out += struct.pack("<QQ", *weights.place(value.array))
    out += struct.pack("<I", len(graph.nodes))
    for node in graph.nodes:
        out += _str(node.op) + _str(node.name) + ids(node.inputs) + ids(node.outputs)
        types = {key: attr.type for key, attr in ops.table[node.op].attrs.items()}
        attrs = node.attrs
        if not attrs.get("input_scale"):  # not quantised: what an older reader would not know
            attrs = {key: value for key, value in attrs.items() if key not in ops.LEVELS}
        out += _table(attrs, types)
    out += ids(graph.inputs)
    out += struct.pack("<I", len(graph.outputs))
    for role, value in graph.outputs.items():
        out += _str(role) + struct.pack("<i", index[value])
    return bytes(out)


def _golden(golden: Golden) -> bytes:
    table = {
        "tolerance.f32": float(golden.tolerance_f32),
        "tolerance.bf16": float(golden.tolerance_bf16),
        "reference": golden.reference,
    }
    if golden.tolerance_int8 is not None:
        table["tolerance.int8"] = float(golden.tolerance_int8)
    out = bytearray(_table(table))
    out += struct.pack("<I", len(golden.frames))
    for each in golden.frames:
        frame, score_map = np.asarray(each.frame), np.asarray(each.map, dtype="<f4")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (1, 3):
            raise CompileError(
                f"golden frame is {frame.dtype} {frame.shape}, expected uint8 [h,w,1] or [h,w,3]"
            )
        if score_map.ndim != 2:
            raise CompileError(f"golden map has shape {score_map.shape}, expected [mh,mw]")
        out += struct.pack("<III", *frame.shape) + frame.tobytes()
        out += struct.pack("<fII", each.score, *score_map.shape) + score_map.tobytes()
    return bytes(out)


def _table(entries: Mapping[str, Any], types: Mapping[str, str] | None = None) -> bytes:
    out = bytearray(struct.pack("<I", len(entries)))
    for key, value in entries.items():
        kind = _TYPES[types[key].split("[")[0], "[" in types[key]] if types else _kind(key, value)
        out += _str(key) + struct.pack("<B", kind)
        if kind == INT:
            out += struct.pack("<q", value)
        elif kind == FLOAT:
            out += struct.pack("<d", value)
        elif kind == STR:
            out += _str(value)
        else:
            out += struct.pack(f"<I{len(value)}{'q' if kind == INTS else 'd'}", len(value), *value)
    return bytes(out)


_TYPES = {
    ("i", False): INT,
    ("f", False): FLOAT,
    ("s", False): STR,
    ("i", True): INTS,
    ("f", True): FLOATS,
}


def _kind(key: str, value: Any) -> int:
    if isinstance(value, (bool, int, np.integer)):
        return INT
    if isinstance(value, (float, np.floating)):
        return FLOAT
    if isinstance(value, str):
        return STR
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value):
        return INTS if all(isinstance(item, int) for item in value) else FLOATS
    raise CompileError(
        f"plan table: {key} is {value!r}, expected int, float, str or a list of numbers"
    )


def _str(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode()


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
