"""How many threads share the work changes no bit of what comes out."""

import numpy as np
import pytest

import adfast
from adfast.compiler.graph import Graph
from adfast.compiler.writer import write_test_plan
from adfast.tune import HEADING

FRAME = np.random.default_rng(2).integers(0, 256, (70, 90, 3), dtype=np.uint8)
THREADS = (2, 4, 9)


def answers(plan, precision, **options):
    """Return the map for one thread, and those for others."""
    one, *others = (
        adfast.load(plan, device="cpu", threads=n, precision=precision, **options)
        .predict(FRAME)
        .network_map
        for n in (1, *THREADS)
    )
    return one, others


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("name", ["gtrans", "adtr", "intra", "saae", "haloae"])
def test_models(name, precision, plan_of_model):
    one, others = answers(plan_of_model(name), precision)
    assert all(np.array_equal(one, other) for other in others)


def test_int8(tiny_int8_plan):
    one, others = answers(tiny_int8_plan, "int8")
    assert all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize("rows", [1, 2, 8, 15, 16, 49])
@pytest.mark.parametrize("tactic", ["direct", "strassen"])
def test_products_of_few_rows_and_many_terms(rows, tactic, tmp_path):
    """A library may share out the terms of a sum, whose order then is another."""
    random = np.random.default_rng(rows)
    graph = Graph("few rows")
    attrs = {"resize": [32, 32], "crop": [32, 32], "scale": [1 / 255] * 3, "bias": [0.0] * 3}
    (frame,) = graph.add("frame", [], attrs)
    weight = random.normal(size=(1024, 3, 4, 4)).astype(np.float32)
    (x,) = graph.add("conv2d", [frame, graph.constant("w", weight)], {"strides": [4, 4]})
    (x,) = graph.add("tokens", [x])
    index = random.integers(0, 64, (1, rows))
    (x,) = graph.add("window_gather", [x, graph.index("rows", index)])
    weight = random.normal(size=(128, 1024)).astype(np.float32)
    (x,) = graph.add("linear", [x, graph.constant("weight", weight)], name="product")
    (y,) = graph.add("feature_map", [x], {"height": rows, "width": 1})
    (y,) = graph.add("reduce_sum", [y], {"axes": [1]})
    graph.output("map", y)
    top = {"axes": [1, 2, 3], "keepdims": 0}
    graph.output("score", graph.add("reduce_max", [y], top)[0])
    path = tmp_path / "rows.plan"
    write_test_plan(path, graph)
    told = tmp_path / "tactics"
    told.write_text(f"{HEADING}\n{tactic} product\n", encoding="utf-8")
    one, others = answers(path, "f32", tactics=told)
    assert all(np.array_equal(one, other) for other in others)
