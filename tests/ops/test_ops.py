"""Every op alone, through a plan and the engine, against the compiler's reference in float64."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, Case, act, const, rounded

import adfast
from adfast import _core
from adfast.compiler import ops, reference
from adfast.compiler.graph import Graph
from adfast.compiler.writer import write_test_plan


def stored(case: Case, precision: str, seed: int = 0) -> list[np.ndarray | None]:
    """Return the operands as the engine holds them: in bf16, feature maps are rounded."""
    arrays = case.arrays(seed)
    if precision == "f32":
        return arrays
    return [
        rounded(array) if operand and not operand.constant and len(operand.shape) == 4 else array
        for operand, array in zip(case.operands, arrays, strict=True)
    ]


def run(case: Case, arrays, folder, **options) -> dict[str, np.ndarray]:
    graph, inputs = case.graph(arrays)
    path = folder / "op.plan"
    write_test_plan(path, graph)
    return _core.run_graph(str(path), inputs, **options)


def check(case: Case, precision: str, got, want) -> None:
    tolerance = getattr(case, precision)
    for role, expected in want.items():
        assert got[role].shape == expected.shape, role
        largest = max(np.abs(expected).max(), 1e-30)
        error = np.abs(got[role] - expected).max() / largest
        assert error <= tolerance, f"{case} {role}: {error:.3g} of the largest value {largest:.3g}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_op(case, isa, precision, tmp_path):
    arrays = stored(case, precision)
    graph, inputs = case.graph(arrays)
    want = reference.run(graph, inputs)
    check(case, precision, run(case, arrays, tmp_path, precision=precision, isa=isa), want)


def test_every_op_has_cases():
    engine = {name for name, op in ops.table.items() if op.engine}
    assert {case.op for case in CASES} == engine - {"frame"}  # test_frame.py


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_reaches_the_score(bad, precision, isa, tmp_path):
    """One bad feature must not be averaged, clipped or compared away."""
    case = Case("score_map", (act(1, 17, 9, 7), act(1, 17, 9, 7)))
    arrays = case.arrays()
    arrays[0][0, 3, 4, 5] = bad
    got = run(case, arrays, tmp_path, precision=precision, isa=isa)
    assert not np.isfinite(got["out0"][0, 0, 4, 5])
    assert np.isfinite(got["out0"]).sum() == 9 * 7 - 1
    assert not np.isfinite(got["out1"]) and not np.isfinite(got["out2"])


@pytest.mark.parametrize("place", [0, 5, 16, 31, 1007, 1022])
def test_reduce_max_keeps_nan(place, isa, tmp_path):
    case = Case("reduce_max", (act(1, 1, 33, 31),), {"axes": [1, 2, 3], "keepdims": 0})
    arrays = case.arrays()
    arrays[0].reshape(-1)[place] = np.nan
    assert np.isnan(run(case, arrays, tmp_path, isa=isa)["out0"])


@pytest.mark.parametrize("op", ["max", "min"])
def test_extremes_keep_nan(op, isa, tmp_path):
    case = Case(op, (act(1, 3, 17), act(1, 3, 17)))
    arrays = case.arrays()
    arrays[0][0, 1, 2] = arrays[1][0, 2, 16] = np.nan
    got = run(case, arrays, tmp_path, isa=isa)["out0"]
    assert np.isnan(got).sum() == 2 and np.isnan(got[0, 1, 2]) and np.isnan(got[0, 2, 16])


def test_softmax_of_large_logits(isa, tmp_path):
    case = Case("softmax", (act(2, 19, low=-3e4, high=3e4),))
    got = run(case, case.arrays(), tmp_path, isa=isa)["out0"]
    np.testing.assert_allclose(got.sum(axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("op", ["token_attention", "projector_attention"])
def test_attention_over_pixels_with_large_logits(op, isa, tmp_path):
    """The running maximum must rise from tile to tile without overflow."""
    shape = (1, 16, 33, 31)
    rest = (const(8, 16), None) if op == "token_attention" else None
    if rest is None:
        rest = (act(*shape), act(1, 8, 16), None, act(1, 8, 16))
    case = Case(op, (act(*shape), *rest), {"scale": 300.0}, f32=2e-3)
    arrays = case.arrays()
    arrays[0] *= np.linspace(0, 1, 33 * 31, dtype=np.float32).reshape(1, 1, 33, 31)
    graph, inputs = case.graph(arrays)
    got = run(case, arrays, tmp_path, isa=isa)
    check(case, "f32", got, reference.run(graph, inputs))


def test_instruction_sets_differ_by_rounding_only(tmp_path, request):
    """And the same one gives the same bits twice."""
    case = next(c for c in CASES if c.op == "projector_score_map" and "33x31" in str(c))
    arrays = case.arrays()
    first = run(case, arrays, tmp_path)
    again = run(case, arrays, tmp_path)
    for role in first:
        np.testing.assert_array_equal(first[role], again[role])
    scalar = run(case, arrays, tmp_path, isa="scalar")
    for role in first:
        np.testing.assert_allclose(first[role], scalar[role], rtol=1e-4)


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_on_several_threads_gives_the_same_bits(heads, tmp_path):
    """Heads are shared out where they divide evenly, queries otherwise."""
    graph = Graph("attention")
    frame = {"resize": [25, 31], "crop": [25, 31], "scale": [0.01] * 3, "bias": [0.0] * 3}
    (x,) = graph.add("tokens", graph.add("frame", [], frame))
    (x,) = graph.add("attention", [x, x, x], {"heads": heads, "scale": 1.0})
    (x,) = graph.add("feature_map", [x], {"height": 25, "width": 31})
    (x,) = graph.add("reduce_sum", [x], {"axes": [1]})
    graph.output("map", x)
    graph.output("score", graph.add("reduce_max", [x], {"axes": [1, 2, 3], "keepdims": 0})[0])
    path = tmp_path / "attention.plan"
    write_test_plan(path, graph)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    # Two lanes share the threads: 4 and 6 give an operator 2 and 3.
    one, *others = (
        adfast.load(path, threads=threads, precision="f32").predict(image).network_map
        for threads in (1, 4, 6)
    )
    assert all(np.array_equal(one, other) for other in others)


def test_halo_attention_on_several_threads_gives_the_same_bits(tmp_path):
    graph = Graph("halo_attention")
    frame = {"resize": [9, 12], "crop": [9, 12], "scale": [0.01] * 3, "bias": [0.0] * 3}
    (x,) = graph.add("frame", [], frame)
    random = np.random.default_rng(0)
    weight = graph.constant("weight", random.standard_normal((10, 3, 1, 1)))
    table = graph.constant("table", random.standard_normal((9, 5)))
    (x,) = graph.add("conv2d", [x, weight])
    attrs = {"block": 3, "halo": 1, "heads": 2, "scale": 1.0}
    (x,) = graph.add("halo_attention", [x, x, x, table, table], attrs)
    (x,) = graph.add("reduce_sum", [x], {"axes": [1]})
    graph.output("map", x)
    graph.output("score", graph.add("reduce_max", [x], {"axes": [1, 2, 3], "keepdims": 0})[0])
    path = tmp_path / "halo_attention.plan"
    write_test_plan(path, graph)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    one, *others = (
        adfast.load(path, threads=threads, precision="f32").predict(image).network_map
        for threads in (1, 3, 5)
    )
    assert all(np.array_equal(one, other) for other in others)
