"""The plan file: all the engine needs, in one file that can be checked before it is believed.

This module makes the sections; `adfast.plan_file` lays them out. The same arguments give the same
bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adfast.compiler import ops
from adfast.compiler.graph import Graph, Value
from adfast.errors import CompileError
from adfast.plan_file import aligned, json_text, table, text, write_sections

FLOAT32, INT32 = 0, 1
#: What golden frames may be in: PFNC's code, the dtype as stored, and the number of dimensions.
GOLDEN_FORMATS = {
    "Mono8": (0x01080001, "u1", 2),
    "Mono10": (0x01100003, "<u2", 2),
    "Mono12": (0x01100005, "<u2", 2),
    "Mono16": (0x01100007, "<u2", 2),
    "RGB8": (0x02180014, "u1", 3),
}
ACTIVATION, CONSTANT = 0, 1


@dataclass
class GoldenFrame:
    """A frame and what the reference makes of it.

    frame: [h,w] or [h,w,3], uint8, or uint16 for a deep format. score: raw. map: float32 [mh,mw] at
    the network's resolution. pixel_format: a name of `GOLDEN_FORMATS`; empty: Mono8 or RGB8.
    """

    frame: np.ndarray
    score: float
    map: np.ndarray
    pixel_format: str = ""


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
    sections = {
        "fields": table(fields),
        "graph": _graph(graph, weights),
        "calibration": table(calibration),
        "golden": _golden(golden),
        "parity": json_text(parity),
        "provenance": json_text(provenance),
    }
    write_sections(path, sections | {"weights": bytes(weights.data)})


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
            self.data += b"\0" * (aligned(len(self.data)) - len(self.data))
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
        out += text(value.name) + struct.pack(f"<BBBB{rank}q", element, kind, rank, 0, *value.shape)
        if value.array is not None:
            out += struct.pack("<QQ", *weights.place(value.array))
    out += struct.pack("<I", len(graph.nodes))
    for node in graph.nodes:
        out += text(node.op) + text(node.name) + ids(node.inputs) + ids(node.outputs)
        types = {key: attr.type for key, attr in ops.table[node.op].attrs.items()}
        attrs = node.attrs
        if not attrs.get("input_scale"):  # not quantised: what an older reader would not know
            attrs = {key: value for key, value in attrs.items() if key not in ops.LEVELS}
        out += table(attrs, types)
    out += ids(graph.inputs)
    out += struct.pack("<I", len(graph.outputs))
    for role, value in graph.outputs.items():
        out += text(role) + struct.pack("<i", index[value])
    return bytes(out)


def _golden(golden: Golden) -> bytes:
    info = {
        "tolerance.f32": float(golden.tolerance_f32),
        "tolerance.bf16": float(golden.tolerance_bf16),
        "reference": golden.reference,
    }
    if golden.tolerance_int8 is not None:
        info["tolerance.int8"] = float(golden.tolerance_int8)
    out = bytearray(table(info))
    out += struct.pack("<I", len(golden.frames))
    for each in golden.frames:
        frame, score_map = np.asarray(each.frame), np.asarray(each.map, dtype="<f4")
        name = each.pixel_format or ("RGB8" if frame.ndim == 3 else "Mono8")
        if name not in GOLDEN_FORMATS:
            raise CompileError(
                f"golden frame in {name!r}, expected one of {', '.join(GOLDEN_FORMATS)}"
            )
        code, dtype, rank = GOLDEN_FORMATS[name]
        shaped = frame.ndim == rank and frame.shape[2:] in ((), (3,))
        if frame.dtype != np.dtype(dtype) or not shaped:
            raise CompileError(
                f"golden frame is {frame.dtype} {frame.shape}, expected {np.dtype(dtype)} "
                f"{'[h,w,3]' if rank == 3 else '[h,w]'} of {name}"
            )
        if score_map.ndim != 2 or score_map.size == 0:
            raise CompileError(f"golden map has shape {score_map.shape}, expected [mh,mw]")
        if not (np.isfinite(score_map).all() and np.isfinite(each.score)):
            raise CompileError("golden score or map is not finite")
        out += struct.pack("<III", *frame.shape[:2], code) + frame.astype(dtype).tobytes()
        out += struct.pack("<fII", each.score, *score_map.shape) + score_map.tobytes()
    return bytes(out)
