"""adfast info: show what a plan holds and where it came from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adfast.calibrate import describe as describe_calibration
from adfast.terminal import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("plan", type=Path, help="a plan file, from adfast build")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of text"
    )
    parser.add_argument("--graph", action="store_true", help="print the graph too, a node per line")
    parser.add_argument(
        "--frame",
        type=_size,
        metavar="WxH",
        help="frames that the memory is declared for; default: what the plan resizes to",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from adfast import _core

    plan = describe(_core.read_plan(str(args.plan)))
    if not args.graph:
        del plan["graph"]
    plan["memory"] = memory(args.plan, args.frame)
    if args.json:
        print(json.dumps({"plan": str(args.plan), **plan}, indent=1))
    else:
        print(printable("\n".join(lines(str(args.plan), plan))))
    return 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is no size, expected as in 1920x1080")
    return int(width), int(height)


def memory(plan: Path, frame: tuple[int, int] | None) -> dict[str, Any]:
    """Load a plan on this machine's CPU and say what it takes; or why it cannot be loaded."""
    from adfast.engine import load
    from adfast.errors import AdfastError, ArgumentError

    try:
        engine = load(plan, device="cpu")
        rows, columns = engine.info["resize"]
        width, height = frame or (columns, rows)
        bytes_of = engine.memory(height, width)
    except ArgumentError:
        raise
    except AdfastError as error:
        return {"unknown": str(error)}
    info = engine.info
    return {
        "frame_size": [width, height],
        "precision": info["precision"],
        "threads": info["threads"],
        **bytes_of,
    }


def describe(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what `_core.read_plan` gives into JSON types; pictures become their sizes."""
    golden = [
        {
            "frame": list(each["frame"].shape),
            "pixel_format": each["pixel_format"],
            "score": float(each["score"]),
            "map": list(each["map"].shape),
            "map_max": float(each["map"].max()) if each["map"].size else 0.0,
        }
        for each in plan["golden"]
    ]
    fields = dict(plan["fields"])
    fields["config"] = _parsed(fields.get("config", "{}"))
    return {
        **plan,
        "fields": fields,
        "golden": golden,
        "parity": _parsed(plan["parity"]),
        "provenance": _parsed(plan["provenance"]),
    }


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def lines(path: str, plan: Mapping[str, Any]) -> Iterator[str]:
    """Lay a described plan out as text."""
    fields, calibration = plan["fields"], plan["calibration"]
    megabytes = plan["file_size"] / 1e6
    model = f"{fields.get('model')} '{fields.get('name')}'"
    yield f"{path}: {model}, {megabytes:.1f} MB, plan format {plan['version']}"
    if plan.get("signed_by"):
        yield f"signed, it says, with key {plan['signed_by']}; adfast verify checks it"
    yield from _section("network")
    yield from _rows(
        {
            "nodes": plan["nodes"],
            "parameters": f"{plan['parameters']:,}",
            "precision": fields.get("precision"),
            "frame": _frame_text(fields),
            **({"tiles": _tile_text(fields)} if "tile.size" in fields else {}),
            "map": _map_text(fields),
            "score": _score_text(fields),
        }
    )
    yield from _section("model config")
    yield from _rows(fields["config"] if isinstance(fields["config"], dict) else {})
    yield from _section("calibration")
    for line in describe_calibration(calibration):
        yield "  " + line
    yield ""
    yield from _rows(calibration)
    yield from _section("memory of a process on this machine's CPU")
    yield from _rows(_memory_rows(plan["memory"]))
    if "tensorrt" in plan:
        yield from _section("TensorRT engine")
        yield from _rows(plan["tensorrt"])
    yield from _section("golden frames")
    yield from _rows(plan["golden_info"])
    for number, each in enumerate(plan["golden"], 1):
        frame, score_map = _by(each["frame"]), f"map {_by(each['map'])}"
        frame += f" {each['pixel_format']}"
        top = f"score {each['score']:.6g}, maximum {each['map_max']:.6g}"
        yield f"  {number}: frame {frame}, {score_map}, {top}"
    yield from _section("parity (differences as fractions of the reference's maximum)")
    yield from _rows(_flat(plan["parity"]))
    yield from _section("provenance")
    yield from _rows(_flat(plan["provenance"]))
    yield from _section("file")
    for each in plan["sections"]:
        place = f"at {each['offset']:>11,}  {each['size']:>13,} bytes"
        yield f"  {each['name']:<12} {place}  sha256 {each['sha256'][:16]}"
    if "graph" in plan:
        yield from _section("graph")
        yield plan["graph"]


def _memory_rows(use: Mapping[str, Any]) -> dict[str, str]:
    if "unknown" in use:
        return {"unknown": use["unknown"]}

    def megabytes(name: str) -> str:
        return f"{use[name] / 1e6:.0f} MB"

    return {
        "loading": f"{megabytes('loading')} at most, beside what the process has",
        "running": f"{megabytes('running')} at most, frames of {_by(use['frame_size'])} one by one",
        "of it": f"{megabytes('weights')} weights, {megabytes('frame')} a frame in work; "
        f"{use['precision']}, {use['threads']} threads",
    }


def _frame_text(fields: Mapping[str, Any]) -> str:
    antialias = "antialiased" if fields.get("frame.antialias") else "not antialiased"
    resize, crop = _by(fields.get("frame.resize", ())), _by(fields.get("frame.crop", ()))
    how = f"{fields.get('frame.interpolation')}, {antialias}"
    return f"any size, {fields.get('frame.color')}; stretched to {resize} ({how}), centre {crop}"


def _tile_text(fields: Mapping[str, Any]) -> str:
    size, overlap = _by(fields["tile.size"]), fields.get("tile.overlap")
    return f"frames larger than {size} pixels, in tiles of that which share {overlap} or more"


def _score_text(fields: Mapping[str, Any]) -> str:
    if fields.get("score.reduction") == "pooled_max":
        return "max of the map's mean over windows of {0}x{0}".format(fields.get("score.pool"))
    if fields.get("score.reduction") == "model":
        return "the model's own"
    return f"{fields.get('score.reduction')} of the map"


def _map_text(fields: Mapping[str, Any]) -> str:
    corners = "corners aligned" if fields.get("map.align_corners") else "corners not aligned"
    upsample = fields.get("map.upsample")
    text = "not upsampled" if upsample == "none" else f"{upsample} upsampling, {corners}"
    if fields.get("map.smoothing", "none") == "none":
        return text
    return (
        f"{text}; {fields['map.smoothing']} smoothing, sigma {fields.get('map.sigma'):g}, "
        f"{fields.get('map.size')} taps, {fields.get('map.border')} border"
    )


def _section(title: str) -> Iterator[str]:
    yield ""
    yield title


def _rows(table: Mapping[str, Any]) -> Iterator[str]:
    width = max((len(key) for key in table), default=0)
    for key, value in table.items():
        yield f"  {key:<{width}}  {_text(value)}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested object into one table with dotted keys."""
    if not isinstance(value, dict):
        return {prefix or "text": value}
    table: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        table.update(_flat(inner, name) if isinstance(inner, dict) else {name: inner})
    return table


def _by(sizes: Any) -> str:
    return "x".join(str(size) for size in sizes)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return str(value)
