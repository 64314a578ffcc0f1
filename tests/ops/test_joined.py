"""Two nodes that the engine computes in one step, against the compiler's reference in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cases import rounded

import adfast
from adfast import _core
from adfast.compiler import reference
from adfast.compiler.graph import Graph
from adfast.compiler.writer import write_test_plan
from adfast.tune import HEADING, tune

INTEL = "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
SIDE = 37
FRAME = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
SHAPES = [  # of the narrow map; channels of the wide one; kernel, stride, pads
    ((24, 13, 11), 72, 3, 1, [1, 1, 1, 1]),
    ((16, 20, 9), 33, 5, 1, [2, 2, 2, 2]),
    ((8, 17, 70), 40, 3, 2, [0, 0, 1, 1]),
    ((272, 8, 8), 100, 5, 2, [2, 2, 2, 2]),
]


def bottleneck(graph, x, wide, kernel, stride=1, pads=None, activation="silu"):
    """Add both convolutions; returns the wide map and what is made of it."""
    random = np.random.default_rng(wide)
    channels = x.shape[1]
    expand = graph.constant("expand.w", random.normal(0, channels**-0.5, (wide, channels, 1, 1)))
    bias = graph.constant("expand.b", random.normal(size=wide))
    attrs = {"activation": activation}
    (between,) = graph.add("conv2d", [x, expand, bias], attrs, name="expand")
    deep = graph.constant("deep.w", random.normal(0, 1 / kernel, (wide, 1, kernel, kernel)))
    bias = graph.constant("deep.b", random.normal(size=wide))
    attrs |= {"groups": wide, "strides": [stride] * 2, "pads": pads or [kernel // 2] * 4}
    return between, graph.add("conv2d", [between, deep, bias], attrs, name="deep")[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", "relu", "none"])
def test_two_convolutions_give_what_the_reference_does(shape, activation, isa, precision, tmp_path):
    size, *rest = shape
    graph = Graph("joined")
    x = graph.input("x", (1, *size))
    graph.output("y", bottleneck(graph, x, *rest, activation=activation)[1])
    path = tmp_path / "joined.plan"
    write_test_plan(path, graph)
    values = np.random.default_rng(1).uniform(-2, 2, (1, *size)).astype(np.float32)
    if precision == "bf16":
        values = rounded(values)
    (want,) = reference.run(graph, {"x": values}).values()
    (got,) = _core.run_graph(str(path), {"x": values}, precision=precision, isa=isa).values()
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error <= (1e-5 if precision == "f32" else 1.5e-2)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return written(tmp_path_factory.mktemp("joined") / "model.plan")


def written(path, also_read=False):
    graph = Graph("joined")
    frame = {"resize": [SIDE, SIDE], "crop": [SIDE, SIDE], "scale": [0.01] * 3, "bias": [0.0] * 3}
    (x,) = graph.add("frame", [], frame)
    random = np.random.default_rng(0)
    stem = graph.constant("stem.w", random.normal(0, 0.2, (24, 3, 3, 3)))
    (x,) = graph.add("conv2d", [x, stem], {"strides": [2, 2], "pads": [1] * 4}, name="stem")
    between, y = bottleneck(graph, x, 100, 3)
    if also_read:
        (y,) = graph.add("add", [y, between])
    (y,) = graph.add("reduce_sum", [y], {"axes": [1]})
    graph.output("map", y)
    graph.output("score", graph.add("reduce_max", [y], {"axes": [1, 2, 3], "keepdims": 0})[0])
    write_test_plan(path, graph)
    return path


def opened(path, precision="f32", isa="", tactics="", threads=1):
    core = _core.Plan(str(path))
    engine = _core.Engine(core, threads, precision, isa, str(tactics))
    return adfast.Engine(path, engine, core.contents())


def kernels(engine):
    return {s["name"]: s["kernel"] for s in engine.profile(FRAME) if s["op"] == "conv2d"}


def test_they_are_one_step_where_no_other_reads_what_lies_between(plan, isa, precision, tmp_path):
    joins = isa != "scalar" and (precision == "f32" or (isa == "avx512_bf16" and not INTEL))
    used = kernels(opened(plan, precision, isa))
    if joins:
        assert used["expand + deep"] == f"adfast:expand_depthwise:{isa}"
    assert len(used) == (2 if joins else 3)
    read = written(tmp_path / "read.plan", also_read=True)
    assert len(kernels(opened(read, precision, isa))) == 3


def test_a_tactic_takes_them_apart(plan, tmp_path):
    told = tmp_path / "tactics"
    expected = opened(plan, isa="avx2").predict(FRAME).network_map
    for name in ("*", "expand", "deep"):
        told.write_text(f"{HEADING}\ndirect {name}\n", encoding="utf-8")
        apart = opened(plan, isa="avx2", tactics=told)
        assert set(kernels(apart)) == {"stem", "expand", "deep"}
        error = np.abs(apart.predict(FRAME).network_map - expected).max()
        assert error < 1e-5 * np.abs(expected).max()


def test_results_do_not_depend_on_threads(plan, precision):
    one, *others = (
        opened(plan, precision, threads=threads).predict(FRAME).network_map
        for threads in (1, 2, 3, 5)
    )
    assert all(np.array_equal(one, other) for other in others)


def test_what_is_never_stored_takes_no_memory(plan, tmp_path):
    told = tmp_path / "tactics"
    told.write_text(f"{HEADING}\ndirect *\n", encoding="utf-8")
    joined, apart = opened(plan, isa="avx2"), opened(plan, isa="avx2", tactics=told)
    assert joined.info["frame_memory"] < apart.info["frame_memory"]


def test_tuning_compares_a_joined_step_with_its_parts(plan, tmp_path, monkeypatch):
    """Told to be taken apart, both are, and the file is one that the engine takes."""
    monkeypatch.setattr("adfast.tune.WORTHWHILE", 1e9)
    path = tmp_path / "model.tactics"
    result = tune(plan, path, precision="f32", threads=1, frames=2)
    found = {step["name"]: step for step in result["steps"]}
    assert found["expand + deep"]["tactic"] == "direct"
    assert "direct expand" in path.read_text(encoding="utf-8").splitlines()
    assert set(kernels(opened(plan, tactics=path))) == {"stem", "expand", "deep"}
