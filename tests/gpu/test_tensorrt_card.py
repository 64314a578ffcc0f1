"""TensorRT itself on a card: engines of the five models, built, run, and compared with the CPU."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest

import adfast
from adfast import _core
from adfast.compiler.reader import graph_of
from adfast.compiler.writer import Golden, GoldenFrame, plan_fields, write_plan
from adfast.tensorrt.target import add_engine

if not os.environ.get("ADFAST_GPU_CHECK"):
    pytest.skip("needs a card: make gpu-check runs it", allow_module_level=True)
if importlib.util.find_spec("tensorrt") is None:
    pytest.skip("TensorRT is not installed: pip install tensorrt", allow_module_level=True)

FRAME = np.random.default_rng(9).integers(0, 256, (45, 37, 3), dtype=np.uint8)
TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "bf16": 6e-2}


@pytest.mark.parametrize("precision", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("model", ["gtrans", "adtr", "intra", "saae", "haloae"])
def test_model(model, precision, plan_of_model, tmp_path):
    bare = plan_of_model(model)
    graph = graph_of(_core.Plan(str(bare)))
    expected = adfast.load(bare, device="cpu", precision="f32").predict(FRAME)
    frame = next(node for node in graph.nodes if node.op == "frame")
    sizes = {"resize": frame.attrs["resize"], "crop": frame.attrs["crop"]}
    golden = Golden(
        [GoldenFrame(FRAME, expected.score, expected.network_map)],
        TOLERANCE["f32"],
        TOLERANCE["bf16"],
    )
    path = tmp_path / "model.plan"
    write_plan(path, graph, plan_fields(model=model, name=model, **sizes), {}, golden, {}, {})
    made = add_engine(path, path, precision=precision)
    engine = adfast.load(path)
    assert engine.info["device"] == "tensorrt", engine.info["device_note"]
    assert engine.info["precision"] == made["precision"] == precision
    peak = expected.network_map.max()
    for got in (engine.predict(FRAME), *engine.predict_batch([FRAME] * 5)):
        assert np.abs(got.network_map - expected.network_map).max() <= TOLERANCE[precision] * peak
        assert np.abs(got.map - expected.map).max() <= TOLERANCE[precision] * peak
    again = engine.predict(FRAME)
    np.testing.assert_array_equal(again.map, got.map)
