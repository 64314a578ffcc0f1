"""From an ONNX model to an optimised graph that begins with a frame and gives `map` and `score`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adfast.compiler.graph import Graph, Value
from adfast.compiler.passes import run_passes
from adfast.compiler.writer import plan_fields
from adfast.errors import CompileError

if TYPE_CHECKING:
    import onnx

FORMAT = 1
# What the metadata of an ONNX file may say beside its graph; values are JSON.
METADATA = ("format", "model", "config", "frame", "map", "score", "alpha_scale", "provenance")


@dataclass
class Compiled:
    """What a plan needs from a model: the graph, the section "fields", the model's metadata.

    `metadata` holds the model's "adfast.*" properties, parsed, without the prefix; empty for a
    model from elsewhere. `sha256` is that of the ONNX file; `onnx_input`, `onnx_map` and
    `onnx_score` are the names there, the last "" where the score was added here.
    """

    graph: Graph
    fields: dict[str, Any]
    metadata: dict[str, Any]
    sha256: str
    onnx_input: str
    onnx_map: str
    onnx_score: str


def load_onnx(source: str | os.PathLike[str] | onnx.ModelProto) -> Graph:
    """Import a model: its image input becomes a `frame` op, its outputs are `map` and `score`.

    Raises:
        CompileError: the file, an op of it, its input or its outputs are not what the engine runs.
    """
    from adfast.compiler.importer import read_onnx

    model = read_onnx(source)
    return _graph(model, read_metadata(model))[0]


def compile_onnx(
    source: str | os.PathLike[str],
    *,
    name: str = "",
    disable: Iterable[str] = (),
    log: Callable[[str], None] | None = None,
) -> Compiled:
    """Import a model and run the passes.

    Args:
        source: an .onnx file.
        name: what the plan is called; the file's name by default.
        disable: passes to leave out; see `adfast.compiler.passes`.
        log: called with a line for each pass that changed something.

    Raises:
        CompileError: the model cannot be compiled; lists every op that stands in the way.
    """
    from adfast.compiler.importer import read_onnx

    model = read_onnx(source)
    metadata = read_metadata(model)
    imported, names = _graph(model, metadata)
    graph = run_passes(imported, disable, log)
    _refuse_leftovers(graph)
    graph.check(engine_only=True)
    graph.name = name or Path(source).stem
    # A score of the model's own follows a rule that only its exporter knows.
    rule = "model" if names[-1] else "max"
    fields = _fields(graph, metadata, rule)
    return Compiled(graph, fields, metadata, file_sha256(source), *names)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """Parse the model's "adfast.*" properties; empty when it has none.

    Raises:
        CompileError: a value is not JSON, or the format is newer than this compiler.
    """
    found = {}
    for each in model.metadata_props:
        prefix, _, key = each.key.partition(".")
        if prefix != "adfast" or key not in METADATA:
            continue
        try:
            found[key] = json.loads(each.value)
        except ValueError as error:
            raise CompileError(f"metadata {each.key!r} is not JSON: {error}") from error
    if found and found.get("format") != FORMAT:
        raise CompileError(
            f"the model's metadata has format {found.get('format')!r}, this compiler reads "
            f"{FORMAT}; export it again with this version, or update adfast"
        )
    for key in ("frame", "map", "score", "config", "provenance"):
        if not isinstance(found.get(key, {}), dict):
            raise CompileError(f"metadata 'adfast.{key}' is {found[key]!r}, expected a JSON object")
    return found


def _graph(
    model: onnx.ModelProto, metadata: Mapping[str, Any]
) -> tuple[Graph, tuple[str, str, str]]:
    """Return the graph, and the model's names of input, map and score."""
    from adfast.compiler.importer import import_onnx

    graph = import_onnx(model)
    image = _use_frame(graph, metadata.get("frame", {}))
    names = _name_outputs(graph)
    graph.check()
    return graph, (image, *names)


def _use_frame(graph: Graph, frame: Mapping[str, Any]) -> str:
    """Put a `frame` op in the place of the image input (values 0 to 1); return its name."""
    if len(graph.inputs) != 1:
        names = [value.name for value in graph.inputs]
        raise CompileError(f"the model has {len(names)} inputs {names}, expected one: the image")
    (image,) = graph.inputs
    shape = image.shape
    if len(shape) != 4 or shape[1] != 3:
        hint = "; it looks like [B,H,W,3], transpose it in the model" if shape[-1:] == (3,) else ""
        raise CompileError(
            f"input {image.name!r} has shape {list(shape)}, expected [B,3,H,W], RGB{hint}"
        )
    for key, only in (("interpolation", "bilinear"), ("color", "rgb")):
        if frame.get(key, only) != only:
            raise CompileError(
                f"metadata 'adfast.frame': {key} is {frame[key]!r}, expected {only!r}"
            )
    crop = frame.get("crop", list(shape[2:]))
    if list(crop) != list(shape[2:]):
        raise CompileError(
            f"metadata 'adfast.frame' crops to {crop}, but the input is {list(shape[2:])}"
        )
    attrs = {
        "resize": frame.get("resize", crop),
        "crop": crop,
        "antialias": frame.get("antialias", True),
        "scale": [1 / 255] * 3,
        "bias": [0.0] * 3,
    }
    first = graph.nodes[0] if graph.nodes else None
    (value,) = graph.add("frame", [], attrs, name="frame", path=f"input {image.name}", before=first)
    graph.replace(image, value)
    graph.inputs = []
    return image.name


def _name_outputs(graph: Graph) -> tuple[str, str]:
    """Find the map and the score among the outputs, by name or else by shape; drop the others."""
    given = dict(graph.outputs)
    listed = ", ".join(f"{name} {list(value.shape)}" for name, value in given.items())

    def find(role: str, fits: Callable[[Value], bool]) -> str:
        fitting = [name for name, value in given.items() if fits(value)]
        named = [name for name in fitting if role in name.lower()]
        choice = [role] if role in fitting else named or fitting
        if len(choice) > 1:
            raise CompileError(
                f"several outputs may be the {role}: {listed}; name one of them {role!r}"
            )
        return choice[0] if choice else ""

    def is_map(value: Value) -> bool:
        return len(value.shape) == 4 and value.shape[:2] == (1, 1) != value.shape[2:]

    map_name = find("map", is_map)
    if not map_name:
        raise CompileError(f"no output is an anomaly map of shape [B,1,H,W]; outputs: {listed}")
    score_map = given[map_name]
    # [B,1] and [B,1,1,1] are scores too.
    score_name = find("score", lambda value: value is not score_map and set(value.shape) == {1})
    if not score_name:
        attrs = {"axes": [1, 2, 3], "keepdims": 0}
        (score,) = graph.add("reduce_max", [score_map], attrs, name="score")
    elif given[score_name].shape != (1,):
        (score,) = graph.add("reshape", [given[score_name]], {"shape": [1]}, name="score")
    else:
        score = given[score_name]
    graph.outputs = {"map": score_map, "score": score}
    return map_name, score_name


def _refuse_leftovers(graph: Graph) -> None:
    from adfast.compiler.ops import table

    hints = {
        "reshape": "the engine does not move elements, it takes pixels as tokens and back",
        "transpose": "the engine has no transposition",
        "pad": "only convolutions and average pools can be padded",
        "erf": "only GELU uses it",
        "batch_norm": "only [B,C,H,W] and [B,C] can be normalised",
    }
    left = [node for node in graph.nodes if not table[node.op].engine]
    if left:
        lines = [
            f"  {node.path}: {node.op} of {list(node.inputs[0].shape)} to "
            f"{list(node.output.shape)}; {hints.get(node.op, 'the engine has no such op')}"
            for node in left
        ]
        raise CompileError("the model cannot be compiled:\n" + "\n".join(lines))


def _fields(graph: Graph, metadata: Mapping[str, Any], rule: str) -> dict[str, Any]:
    frame = next(node.attrs for node in graph.nodes if node.op == "frame")
    described, score = metadata.get("map", {}), metadata.get("score", {})
    smoothing = described.get("smoothing") or {}
    try:
        return plan_fields(
            model=str(metadata.get("model", "onnx")),
            name=graph.name,
            resize=frame["resize"],
            crop=frame["crop"],
            antialias=frame["antialias"],
            upsample=str(described.get("upsample", "none")),
            align_corners=int(described.get("align_corners", False)),
            smoothing=str(smoothing.get("kind", "none")),
            sigma=float(smoothing.get("sigma", 0.0)),
            size=int(smoothing.get("size", 0)),
            border=str(smoothing.get("border", "none")),
            reduction=str(score.get("reduction", rule)),
            pool=int(score.get("pool", 1)),
            config=json.dumps(metadata.get("config", {}), sort_keys=True),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise CompileError(f"the model's adfast metadata is malformed: {error}") from error
