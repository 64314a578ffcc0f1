"""Every op on the CUDA backend, alone, against the compiler's reference in float64.

On a machine with a card (`make gpu-check` says so) this is the true backend; elsewhere the same
host code and the same kernels run on the emulator of tests/cuda, with cuDNN and cuBLASLt stood in
for, which `make test-cpp` has built.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from cases import CASES, Case, act

from adfast import _core
from adfast.compiler import ops, reference
from adfast.compiler.writer import write_test_plan

# Operands and results are rounded to eleven bits of mantissa in f16 and to eight in bf16; softmax
# and products sum over many of them.
TOLERANCE = {"f32": 0.0, "bf16": 2e-2, "f16": 3e-3}
# Operands that are stored narrowly whatever their rank.
NARROW = ("attention",)


def rounded(array: np.ndarray, precision: str) -> np.ndarray:
    if precision == "f16":
        return array.astype(np.float16).astype(np.float32)
    bits = array.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def stored(case: Case, precision: str) -> list[np.ndarray | None]:
    """Return the operands as the backend holds them."""
    arrays = case.arrays()
    if precision == "f32":
        return arrays
    return [
        rounded(array, precision)
        if operand
        and not operand.rows
        and (case.op in NARROW or len(operand.shape) == 4)
        and not (operand.constant and case.op not in NARROW)
        else array
        for operand, array in zip(case.operands, arrays, strict=True)
    ]


def run(case: Case, arrays, folder, cuda, **options) -> dict[str, np.ndarray]:
    graph, inputs = case.graph(arrays)
    path = folder / "op.plan"
    write_test_plan(path, graph)
    return _core.run_graph(str(path), inputs, device="cuda", folders=cuda.folders, **options)


# The sizes of a real network take minutes on the emulator; every op has smaller ones.
ON_CARD = bool(os.environ.get("ADFAST_GPU_CHECK"))


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("case", [c for c in CASES if ON_CARD or not c.hot], ids=str)
def test_op(case, precision, tmp_path, cuda):
    arrays = stored(case, precision)
    graph, inputs = case.graph(arrays)
    want = reference.run(graph, inputs)
    got = run(case, arrays, tmp_path, cuda, precision=precision)
    tolerance = max(case.f32 if precision == "f32" else case.bf16, TOLERANCE[precision])
    for role, expected in want.items():
        assert got[role].shape == expected.shape, role
        largest = max(np.abs(expected).max(), 1e-30)
        error = np.abs(got[role] - expected).max() / largest
        assert error <= tolerance, f"{case} {role}: {error:.3g} of the largest value {largest:.3g}"


def test_every_op_has_cases():
    engine = {name for name, op in ops.table.items() if op.engine}
    assert {case.op for case in CASES} == engine - {"frame"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_nan_reaches_the_score(bad, precision, tmp_path, cuda):
    case = Case("score_map", (act(1, 17, 9, 7), act(1, 17, 9, 7)))
    arrays = case.arrays()
    arrays[0][0, 3, 4, 5] = bad
    got = run(case, arrays, tmp_path, cuda, precision=precision)
    assert not np.isfinite(got["out0"][0, 0, 4, 5])
    assert np.isfinite(got["out0"]).sum() == 9 * 7 - 1
    assert not np.isfinite(got["out1"]) and not np.isfinite(got["out2"])


@pytest.mark.parametrize("place", [0, 5, 31, 1007, 1022])
def test_reduce_max_keeps_nan(place, tmp_path, cuda):
    case = Case("reduce_max", (act(1, 1, 33, 31),), {"axes": [1, 2, 3], "keepdims": 0})
    arrays = case.arrays()
    arrays[0].reshape(-1)[place] = np.nan
    assert np.isnan(run(case, arrays, tmp_path, cuda)["out0"])


@pytest.mark.parametrize("op", ["max", "min"])
def test_extremes_keep_nan(op, tmp_path, cuda):
    case = Case(op, (act(1, 3, 17), act(1, 3, 17)))
    arrays = case.arrays()
    arrays[0][0, 1, 2] = arrays[1][0, 2, 16] = np.nan
    got = run(case, arrays, tmp_path, cuda)["out0"]
    assert np.isnan(got).sum() == 2 and np.isnan(got[0, 1, 2]) and np.isnan(got[0, 2, 16])


def test_attention_over_pixels_with_large_logits(tmp_path, cuda):
    """The running maximum must rise from tile to tile without overflow."""
    case = next(c for c in CASES if c.op == "token_attention" and "33x31" in str(c))
    case = dataclasses.replace(case, attrs={"scale": 300.0})
    arrays = case.arrays()
    arrays[0] *= np.linspace(0, 1, 33 * 31, dtype=np.float32).reshape(1, 1, 33, 31)
    graph, inputs = case.graph(arrays)
    want = reference.run(graph, inputs)["out0"]
    got = run(case, arrays, tmp_path, cuda)["out0"]
    np.testing.assert_allclose(got, want, atol=2e-3 * np.abs(want).max())


def test_the_same_bits_every_time(tmp_path, cuda):
    case = next(c for c in CASES if c.op == "projector_score_map" and "33x31" in str(c))
    arrays = case.arrays()
    first, again = (run(case, arrays, tmp_path, cuda, precision="bf16") for _ in range(2))
    for role in first:
        np.testing.assert_array_equal(first[role], again[role])
