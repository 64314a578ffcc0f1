"""Fixtures that several folders of tests share."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from adfast import _core
from adfast.compiler.graph import Graph
from adfast.compiler.writer import Golden, GoldenFrame, plan_fields, write_plan, write_test_plan
from adfast.errors import ArgumentError

#: Folders with files that take minutes: they begin first, so that no process ends alone with one.
LONG = ("triton_kernels", "training", "cli", "cuda", "export", "trt", "ops")


def pytest_collection_modifyitems(items):
    """Order the tests for `make test`, whose processes take file after file."""
    places = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


def tiny_graph(resize=(18, 20), crop=(16, 16)) -> Graph:
    """Two small branches that meet in a score map: every kind of step, two lanes' worth of work."""
    random = np.random.default_rng(5)
    graph = Graph("tiny")
    (frame,) = graph.add(
        "frame",
        [],
        {
            "resize": list(resize),
            "crop": list(crop),
            "antialias": 1,
            "scale": [1 / 255] * 3,
            "bias": [-0.5, -0.4, -0.3],
        },
        name="frame",
    )
    branches = []
    for name in ("a", "b"):
        value = frame
        for layer, channels in enumerate((4, 5)):
            weight = random.standard_normal((channels, value.shape[1], 3, 3)) * 0.2
            (value,) = graph.add(
                "conv2d",
                [
                    value,
                    graph.constant(f"{name}{layer}.weight", weight.astype(np.float32)),
                    graph.constant(
                        f"{name}{layer}.bias", random.standard_normal(channels).astype(np.float32)
                    ),
                    None,
                ],
                {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "groups": 1}
                | {"activation": "relu"},
                name=f"{name}{layer}",
            )
        branches.append(value)
    score_map, _, _ = graph.add("score_map", branches, {}, name="score_map")
    kernel = np.array([0.25, 0.5, 0.25], np.float32)
    (blurred,) = graph.add(
        "gaussian_blur", [score_map, graph.constant("kernel", kernel)], {}, name="blur"
    )
    (score,) = graph.add("reduce_max", [blurred], {"axes": [1, 2, 3], "keepdims": 0}, name="score")
    graph.output("map", blurred)
    graph.output("score", score)
    return graph


@pytest.fixture(scope="session")
def tiny_plan(tmp_path_factory) -> Path:
    """A plan of a few kilobytes that takes frames, calibrated, with golden frames."""
    from adfast import load

    path = tmp_path_factory.mktemp("plan") / "tiny.plan"
    fields = plan_fields(model="tiny", name="tiny", resize=[18, 20], crop=[16, 16])
    frames = [
        ("", np.random.default_rng(1).integers(0, 256, (6, 7, 3), dtype=np.uint8)),
        ("", np.random.default_rng(2).integers(0, 256, (6, 7), dtype=np.uint8)),
        ("Mono12", np.random.default_rng(3).integers(0, 4096, (6, 7), dtype=np.uint16)),
    ]
    calibration = {"threshold": 0.05, "max_fpr": 0.01, "images": 3}
    write_plan(path, tiny_graph(), fields, calibration, Golden(), {}, {})
    engine = load(path, precision="f32")
    golden = []
    for name, frame in frames:
        result = engine.predict(frame, pixel_format=name)
        golden.append(GoldenFrame(frame, result.score, result.network_map, name))
    write_plan(
        path,
        tiny_graph(),
        fields,
        calibration,
        Golden(golden, tolerance_f32=1e-5, tolerance_bf16=0.1, reference="engine"),
        {"reference": "engine"},
        {"adfast": "test"},
    )
    return path


@pytest.fixture(scope="session")
def make_tiny_graph():
    """`tiny_graph`, for tests that write plans of it: more than one module is called conftest."""
    return tiny_graph


@pytest.fixture(scope="session")
def tiny_plan_with(tmp_path_factory):
    """Make a function from fields of a plan to the path of `tiny_graph` with them."""

    def make(**fields) -> Path:
        path = tmp_path_factory.mktemp("plan") / "tiny.plan"
        geometry = {"resize": [18, 20], "crop": [16, 16]}
        table = plan_fields(model="tiny", name="tiny", **geometry, **fields)
        write_plan(path, tiny_graph(), table, {"threshold": 0.05}, Golden(), {}, {})
        return path

    return make


@pytest.fixture(scope="session")
def tiny_int8_plan(tmp_path_factory) -> Path:
    """The same graph, every convolution quantised."""
    graph = tiny_graph()
    for node in graph.nodes:
        if node.op == "conv2d":
            node.attrs |= {"input_scale": 0.05, "input_zero": 100}
    path = tmp_path_factory.mktemp("plan") / "tiny_int8.plan"
    fields = plan_fields(model="tiny", name="tiny", resize=[18, 20], crop=[16, 16])
    write_plan(path, graph, fields, {}, Golden(), {}, {})
    return path


#: The five models, as small as they go with all their kinds of steps.
SMALL_MODELS = {
    "gtrans": {"backbone": "resnet18", "crop": [32, 32], "resize": [36, 36], "groups": 2, "dim": 16}
    | {"alpha_scale": [1.0, 1.0, 1.0]},
    "adtr": {"backbone": "tf_efficientnet_b0", "crop": [48, 48], "resize": [48, 52]}
    | {"levels": [1, 2], "dim": 16, "blocks": 1, "heads": 2, "hidden": 24},
    "adtr_plus": {"backbone": "resnet18", "crop": [32, 32], "resize": [32, 32], "levels": [1, 2]}
    | {"dim": 16, "blocks": 1, "heads": 2, "hidden": 24},
    "intra": {"patch": 8, "window": 3, "width": 16, "blocks": 3, "heads": 4, "crop": [32, 48]}
    | {"resize": [40, 50], "filters": [100, 70]},
    "saae": {"backbone": "vit_tiny_patch16_224", "layers": [0, 1, 2], "crop": [32, 48]}
    | {"resize": [40, 50], "width": 12},
    "haloae": {"backbone": "vgg11", "layers": [1, 2, 3], "crop": [64, 112], "resize": [64, 120]}
    | {"head_width": 12, "widths": [12, 10], "filters": [3, 5], "heads": [1, 2]}
    | {"decoder_widths": [10], "decoder_filters": [3, 1], "decoder_heads": [2, 1]}
    | {"head_dim": 4, "image_widths": [8, 8, 4, 4]},
}


@pytest.fixture(scope="session")
def plan_of_model(tmp_path_factory):
    """Make a function from a model's name to a plan of it, without calibration or golden frames.

    Weights are random, statistics those of a trained one. Without a config it is a small one.
    """
    import torch

    from adfast import models
    from adfast.compiler import compile_onnx
    from adfast.export import export_onnx

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # all workers': the first that wants a small one makes it

    def make(name: str, config: dict | None = None) -> Path:
        if config is not None:
            return written(name, config, tmp_path_factory.mktemp(name))
        folder = base / f"small_{name}"
        with FileLock(base / f"small_{name}.lock"):
            done = folder / "model.plan"
            return done if done.exists() else written(name, SMALL_MODELS[name], folder)

    def written(name: str, chosen: dict, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = models.create(name, chosen).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.3, 0.7)
                torch.nn.init.normal_(module.bias, 0, 0.2)
                torch.nn.init.normal_(module.running_mean, 0, 0.2)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        info = {"model": name, "config": chosen}
        compiled = compile_onnx(export_onnx((model, info), folder / "model.onnx"))
        path = folder / "model.plan"
        write_plan(path, compiled.graph, compiled.fields, {}, Golden(), {}, {})
        return path

    return make


ISAS = ("scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx")


@functools.cache
def _lacking(isa: str, folder: Path) -> str:
    """Why the processor cannot run an instruction set; "" if it can."""
    graph = Graph("probe")
    graph.output("y", graph.add("relu", [graph.input("x", (1,))])[0])
    path = folder / f"{isa}.plan"
    write_test_plan(path, graph)
    try:
        _core.run_graph(str(path), {"x": np.zeros(1, np.float32)}, isa=isa)
    except ArgumentError as error:
        assert "lacks" in str(error), error
        return str(error)
    return ""


@pytest.fixture(params=ISAS)
def isa(request, tmp_path_factory) -> str:
    """Every instruction set; skipped only where the processor lacks it."""
    reason = _lacking(request.param, tmp_path_factory.getbasetemp())
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.fixture(params=["f32", "bf16"])
def precision(request) -> str:
    """The precisions in floats."""
    return request.param
