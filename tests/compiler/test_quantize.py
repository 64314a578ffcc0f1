"""Ranges of quantised values, and the search for steps that bear int8."""

from __future__ import annotations

import numpy as np
import pytest

from adfast import quantize
from adfast.calibrate import auroc
from adfast.compiler.graph import Graph
from adfast.compiler.writer import write_test_plan
from adfast.errors import CompileError
from adfast.quantize import RULES, Found, Seen, candidates, levels, quantized, search


def seen(values: np.ndarray) -> Seen:
    low, high = float(values.min()), float(values.max())
    return Seen(low, high, np.histogram(values, quantize.BINS, (low, high))[0])


def error(values, chosen) -> float:
    scale, zero = chosen
    stored = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float(((values - scale * (stored - zero)) ** 2).mean())


@pytest.mark.parametrize("rule", RULES)
def test_zero_is_exact_and_the_range_is_used(rule):
    random = np.random.default_rng(0)
    for values in (random.random(5000), random.normal(size=5000), -random.random(5000) - 3):
        scale, zero = levels(seen(values), rule)
        assert 0 < scale <= (max(values.max(), 0) - min(values.min(), 0)) / 255 * 1.01
        assert 0 <= zero <= 255 and (zero == 0) == (values.min() >= 0)
    assert levels(Seen(0.0, 0.0, np.zeros(quantize.BINS, np.int64)), rule)[0] > 0


def test_outliers_are_clipped_where_that_pays():
    values = np.random.default_rng(0).normal(size=2_000_000)
    values[0] = 40.0
    errors = {rule: error(values, levels(seen(values), rule)) for rule in RULES}
    assert errors["mse"] <= min(errors.values()) * 1.001 and errors["99.99 %"] < errors["max"]
    even = np.linspace(0, 1, 10001)
    assert levels(seen(even), "mse")[0] == pytest.approx(1 / 255, rel=0.02)


def chain(steps: int = 5) -> Graph:
    graph = Graph("chain")
    value = graph.input("x", (1, 70, 40))
    for number in range(steps):
        weight = graph.constant(f"w{number}", np.eye(40))
        (value,) = graph.add("linear", [value, weight], {}, name=f"step{number}")
    graph.output("y", value)
    return graph


def test_candidates():
    graph = chain()
    # The first reads the graph's input.
    assert [node.name for node in candidates(graph)] == ["step1", "step2", "step3", "step4"]
    small = Graph("small")
    x = small.input("x", (1, 32, 9, 9))
    (x,) = small.add("relu", [x])
    for name, shape, attrs in [
        ("yes", (8, 32, 1, 1), {}),
        ("depthwise", (32, 1, 3, 3), {"groups": 32}),
        ("few rows", (8, 32, 3, 3), {}),
        ("short", (8, 16, 1, 1), {"groups": 2}),
    ]:
        small.add("conv2d", [x, small.constant("w", np.ones(shape))], attrs, name=name)
    assert [node.name for node in candidates(small)] == ["yes"]


def test_search_leaves_out_as_little_as_passes(monkeypatch):
    monkeypatch.setattr(quantize, "GROUPS", 4)
    graph = chain()
    values = {node.inputs[0].name: Seen(0, 1, np.ones(quantize.BINS)) for node in candidates(graph)}

    def kept(made):
        return {node.name for node in made.nodes if node.attrs["input_scale"]}

    def drift(made):
        return sum({"step3": 5.0, "step1": 2.0}.get(name, 1.0) for name in kept(made))

    def gate(made):
        return drift(made) <= 3, {"drift": drift(made)}

    found = search(graph, values, drift, gate)
    assert isinstance(found, Found) and found.passed
    assert found.evidence["steps_in_float"] == ["step3", "step1"]
    assert kept(found.graph) == {"step2", "step4"} and found.evidence["drift"] == 2
    assert all(not node.attrs["input_scale"] for node in graph.nodes)

    found = search(graph, values, drift, lambda made: (False, {}))
    assert not found.passed and len(found.evidence["steps_in_float"]) == 3


@pytest.mark.parametrize("bad", [(-1.0, 0), (float("nan"), 0), (0.1, 256), (0.1, -1), (1e20, 3)])
def test_levels_that_make_no_sense_are_not_written(bad, tmp_path):
    graph = quantized(chain(), {"step1": bad})
    with pytest.raises(CompileError, match="quantised with scale"):
        write_test_plan(tmp_path / "a.plan", graph)


def test_auroc():
    assert auroc([False, False, True, True], [1, 2, 3, 4]) == 1
    assert auroc([True, False, True, False], [1, 2, 2, 3]) == pytest.approx(0.125)
