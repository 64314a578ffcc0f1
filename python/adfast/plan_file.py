"""A plan file as bytes: its sections laid out, and its header sealed.

Little-endian. A header of 64 bytes, a table of sections (name, offset, size, SHA-256), then the
sections: fields, graph, calibration, golden, parity, provenance, weights, and in some plans
tensorrt. Each begins at a multiple of 64 bytes; the gaps are zeros. A signed plan ends with a
signature (`adfast.signing`). The same sections give the same bytes. docs/plan-format.md is the
description, csrc/plan the reader.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from adfast.errors import CompileError
from adfast.files import atomic_write

MAGIC = b"ADFPLAN\x1a"
VERSION = 1
OLDEST_READER = 1
#: Of a plan with a signature, which older readers must not take for a damaged one.
SIGNED_VERSION = 2
#: Of a plan with an engine of TensorRT, signed or not.
ENGINE_VERSION = 3
FLAG_SIGNED = 1
SIGNATURE_MAGIC = b"ADFSIGN\x1a"
SIGNATURE_ED25519 = 1
SIGNATURE_SIZE = 128
#: What is signed: this, then header and section table. So a signature of a plan is none of another
#: thing.
SIGNATURE_DOMAIN = b"adfast plan signature 1\n"
ALIGNMENT = 64
HEADER_SIZE = 64
ENTRY_SIZE = 64
SECTIONS = ("fields", "graph", "calibration", "golden", "parity", "provenance", "weights")
#: The section that a plan has behind those where an engine was made of it.
TENSORRT = "tensorrt"
INT, FLOAT, STR, INTS, FLOATS = 1, 2, 3, 4, 5


def head(sections: Mapping[str, bytes], *, signed: bool = False) -> bytes:
    """Return header and section table of a plan with these sections, in this order.

    Args:
        sections: content by name.
        signed: whether a signature follows the last section.
    """
    start = HEADER_SIZE + ENTRY_SIZE * len(sections)
    table, end = b"", start
    for name, data in sections.items():
        offset = aligned(end)
        digest = hashlib.sha256(data).digest()
        table += struct.pack("<16sQQ32s", name.encode(), offset, len(data), digest)
        end = offset + len(data)
    versions = (SIGNED_VERSION, SIGNED_VERSION) if signed else (VERSION, OLDEST_READER)
    if TENSORRT in sections:
        versions = (ENGINE_VERSION, ENGINE_VERSION)
    size = end + (SIGNATURE_SIZE if signed else 0)
    header = struct.pack("<8sIIQII", MAGIC, *versions, size, len(sections), int(signed))
    return header + hashlib.sha256(header + table).digest() + table


def pieces(beginning: bytes, sections: Mapping[str, bytes]) -> Iterator[bytes]:
    """Yield the bytes of a plan file in order: what `head` gave, gaps and sections."""
    yield beginning
    end = len(beginning)
    for data in sections.values():
        yield b"\0" * (aligned(end) - end)
        yield data
        end = aligned(end) + len(data)


def write_sections(path: str | os.PathLike[str], sections: Mapping[str, bytes]) -> None:
    """Write an unsigned plan; nothing is left behind when it fails.

    Raises:
        AdfastError: the file cannot be written.
    """
    with atomic_write(path) as file:
        for piece in pieces(head(sections), sections):
            file.write(piece)


def read_sections(plan: Any) -> dict[str, bytes]:
    """Return the sections of a checked `_core.Plan` by name, as they stand in its file."""
    return {name: plan.section(name) for name in plan.section_names}


def table(entries: Mapping[str, Any], types: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a table.

    Args:
        entries: int, float, str, or lists of int or float, by key; numbers are finite.
        types: per key its type as `adfast.compiler.ops.Attr` has it; None: as the values are.

    Raises:
        CompileError: a value is of another type, or not finite.
    """
    out = bytearray(struct.pack("<I", len(entries)))
    for key, value in entries.items():
        kind = _TYPES[types[key].split("[")[0], "[" in types[key]] if types else _kind(key, value)
        out += text(key) + struct.pack("<B", kind)
        if kind in (FLOAT, FLOATS) and not np.isfinite(value).all():
            raise CompileError(f"plan table: {key} is {value!r}, expected finite numbers")
        if kind == INT:
            out += struct.pack("<q", value)
        elif kind == FLOAT:
            out += struct.pack("<d", value)
        elif kind == STR:
            out += text(value)
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


def text(value: str) -> bytes:
    """Return the bytes of a text."""
    raw = value.encode()
    return struct.pack("<I", len(raw)) + raw


def json_text(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Return the bytes of a JSON section, keys sorted."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode()


def aligned(offset: int) -> int:
    """Return the next multiple of `ALIGNMENT`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT
