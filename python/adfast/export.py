"""From a trained model to an ONNX file that carries everything the compiler needs.

Input `image`: float32 [batch, 3, H, W], RGB in [0, 1], resized and cropped; outputs `score` [batch]
and `map` [batch, 1, H, W]. Frame, map and score fields and the provenance travel as metadata, each
value JSON text.
"""

from __future__ import annotations

import ast
import itertools
import json
import logging
import warnings
from pathlib import Path

from adfast.errors import ModelError
from adfast.files import atomic_path
from adfast.progress import Track, silent


def metadata(model, info: dict) -> dict[str, str]:
    """Return the metadata of a model's ONNX file: "adfast.*" keys, JSON values."""
    config = model.config
    fields = {
        "format": 1,
        "model": config.name,
        "config": config.to_dict(),
        "frame": {
            "resize": list(config.resize),
            "crop": list(config.crop),
            "interpolation": "bilinear",
            "antialias": True,
            "color": "rgb",
        },
        "map": model.map_fields(),
        "score": model.score_fields(),
        **model.extra_fields(),
        "provenance": info.get("provenance", {}),
    }
    return {f"adfast.{key}": json.dumps(value) for key, value in fields.items()}


def to_onnx(model, info: dict):
    """Trace a model (eval mode, CPU) into an onnx.ModelProto, checked.

    Args:
        model: an `adfast.models` model.
        info: what `adfast.models.load_run` returns beside it; {} for a model made by hand.

    Raises:
        ModelError: torch, onnx or onnxscript is missing, or the graph cannot be exported.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise ModelError(f'export needs {error.name}; pip install "adfast[train]"') from error
    from adfast.onnx_functions import DOMAIN, OPSET, append_functions

    model = model.eval()
    # Two images: a batch of one would be taken for a constant.
    image = torch.zeros(2, 3, *model.config.crop)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["score", "map"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:
        raise ModelError(f"cannot export the model to ONNX: {error}") from error
    finally:
        logger.setLevel(level)
    proto = program.model_proto
    if not any(node.domain == DOMAIN for node in proto.graph.node):
        # The exporter traces again in its own way, without a word, where it could not trace a call.
        raise ModelError("cannot export the model to ONNX: its adfast functions were not traced")
    _name_by_module(proto.graph)
    graph = proto.graph
    # What the tracer notes beside each node names source files of this machine.
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
    del graph.value_info[:]
    append_functions(proto)
    onnx.helper.set_model_props(proto, metadata(model, info))
    onnx.checker.check_model(proto, full_check=False)
    return proto


def _name_by_module(graph) -> None:
    """Name nodes, their outputs and folded weights after the modules they come from, in place."""
    outputs = {value.name for value in graph.output}
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    taken = outputs | set(initializers) | {value.name for value in graph.input}
    renamed: dict[str, str] = {}

    def unique(name: str) -> str:
        candidates = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(2)))
        chosen = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(chosen)
        return chosen

    for node in graph.node:
        props = {prop.key: prop.value for prop in node.metadata_props}
        # Modules from the outermost in, then the traced function.
        scopes = ast.literal_eval(props.get("pkg.torch.onnx.name_scopes", "['', '']"))
        scope = scopes[-2] if len(scopes) > 1 else ""
        if scope.startswith("_"):  # the tracer's own: what it inserted belongs to no module
            scope = ""
        parameter = next((i for i in node.input if i.endswith(".weight")), "")
        if node.op_type == "Conv" and parameter:
            scope = parameter.removesuffix(".weight")
        node.name = unique(f"{scope}.{node.op_type}" if scope else node.op_type)
        for i, name in enumerate(node.input):
            if name in initializers and name.startswith("val_"):
                kind = "weight_t" if node.op_type == "MatMul" else f"input{i}"
                renamed[name] = unique(f"{scope or node.name}.{kind}")
                initializers.pop(name).name = renamed[name]
            node.input[i] = renamed.get(name, name)
        for i, name in enumerate(node.output):
            if name not in outputs:
                suffix = f".{i}" if len(node.output) > 1 else ""
                renamed[name] = unique(f"{node.name}.out{suffix}")
                node.output[i] = renamed[name]
    for tensor in graph.initializer:
        if tensor.name.endswith(".weight_bias"):  # a BatchNorm folded into its convolution
            renamed[tensor.name] = unique(tensor.name.replace(".weight_bias", ".bias"))
            tensor.name = renamed[tensor.name]
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def export_onnx(source, path: str | Path, *, track: Track = silent) -> Path:
    """Write the ONNX file of a training run.

    Args:
        source: a run folder, or a pair (model, info) as `adfast.models.load_run` returns.
        path: the file to write.
        track: shows the progress of a mean map that a run lacks; see `adfast.models.load_run`.

    Returns:
        The path.

    Raises:
        ModelError: the run cannot be loaded or exported.
        AdfastError: the file cannot be written.
    """
    if isinstance(source, (str, Path)):
        from adfast.models import load_run

        model, info = load_run(source, track=track)
        info = {**info, "provenance": provenance(source, info)}
    else:
        model, info = source
    proto = to_onnx(model, info)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return Path(path)


def provenance(run_dir: str | Path, info: dict) -> dict:
    """Say where a run's model comes from: run, data, weights, seed, versions, result."""
    data, training = info.get("data", {}), dict(info.get("training", {}))
    for key in (
        "model",
        "config",
        "data",
        "list_file",
        "weights",
    ):  # said elsewhere, or local paths
        training.pop(key, None)
    return {
        "run": Path(run_dir).resolve().name,
        "data_sha256": data.get("sha256"),
        "images": {
            "train": len(data.get("train", ())),
            "validation": len(data.get("validation", ())),
        },
        "weights": info.get("weights"),
        "seed": training.pop("seed", None),
        "training": training,
        "finished": info.get("finished", False),
        "best": info.get("best"),
        "versions": info.get("versions"),
    }
