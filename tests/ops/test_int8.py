"""Convolutions and products in int8 against whole-number sums, on what oneDNN chooses here and on
what it falls back to without VNNI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, Case

from adfast import _core
from adfast.compiler import reference
from adfast.compiler.graph import Graph
from adfast.compiler.writer import write_test_plan

ISA = os.environ.get("ADFAST_ISA", "")
FLAGS = Path("/proc/cpuinfo").read_text(encoding="utf-8")
#: Where products in bf16 are fast, feature maps and residuals beside int8 are bf16: sums of whole
#: numbers are then seen through its rounding here, and to the digit in test_other_sets.
BF16 = (ISA in ("", "avx512_amx") and "amx_bf16" in FLAGS) or (
    ISA in ("", "avx512_bf16") and "avx512_bf16" in FLAGS and "GenuineIntel" not in FLAGS
)
#: On Zen and Zen 2 products in int8 are slower than in f32 and left to it, unless told otherwise.
ZEN = "AuthenticAMD" in FLAGS and re.search(r"cpu family\s*: 23\b", FLAGS)
QUANTISED = [case for case in CASES if case.op in ("conv2d", "linear") and not case.hot]


def run_int8(path: Path, inputs: dict, **options) -> dict:
    tactic = "direct" if ZEN else ""
    return _core.run_graph(str(path), inputs, precision="int8", tactic=tactic, **options)


def weight_limit() -> int:
    """Without VNNI weights have 64 levels a side, see csrc/backends/cpu/onednn.cpp."""
    vnni = "avx512_vnni" in FLAGS or ("avx_vnni" in FLAGS and not ISA)
    return 127 if vnni and ISA not in ("avx2", "scalar") else 64


def rounded_weight(weight: np.ndarray) -> np.ndarray:
    """Round each output channel to the engine's levels."""
    rows = weight.reshape(weight.shape[0], -1)
    scale = np.maximum(np.abs(rows).max(1, keepdims=True), np.float32(1e-18)) / np.float32(
        weight_limit()
    )
    return (np.rint(rows / scale) * scale.astype(np.float64)).reshape(weight.shape)


def levels(x: np.ndarray, zero: int, random: np.random.Generator) -> tuple[float, np.ndarray]:
    """Return a scale and x moved to the middle of levels; some lie beyond the ends."""
    scale = float(np.float32(1.7 / 255))
    stored = random.integers(-20, 276, x.shape)
    return scale, (scale * (stored - zero)).astype(np.float32)


def clipped(x: np.ndarray, scale: float, zero: int) -> np.ndarray:
    return scale * (np.clip(np.rint(x.astype(np.float64) / scale) + zero, 0, 255) - zero)


def both(case: Case, zero: int, folder, **options):
    """The engine's answer and the expected one."""
    arrays = case.arrays()
    scale, arrays[0] = levels(arrays[0], zero, np.random.default_rng(3))
    graph, inputs = case.graph(arrays)
    exact = list(arrays)
    exact[0], exact[1] = clipped(arrays[0], scale, zero), rounded_weight(arrays[1])
    want = reference.run(*case.graph([a if a is None else a.astype(np.float32) for a in exact]))
    node = graph.nodes[0]
    node.attrs |= {"input_scale": scale, "input_zero": zero}
    path = folder / "op.plan"
    write_test_plan(path, graph)
    return run_int8(path, inputs, **options), want


@pytest.mark.parametrize("zero", [0, 37, 255])
@pytest.mark.parametrize("case", QUANTISED, ids=str)
def test_int8(case, zero, tmp_path):
    got, want = both(case, zero, tmp_path)
    for role, expected in want.items():
        error = np.abs(got[role] - expected).max() / max(np.abs(expected).max(), 1e-30)
        assert error <= (8e-3 if BF16 else 2e-5), f"{case} {role}: {error:.3g}"


def test_kernels_round_alike(isa, tmp_path):
    case = next(case for case in QUANTISED if "many rows" in str(case))
    got, want = both(case, 101, tmp_path, isa=isa)
    assert np.allclose(got["out0"], want["out0"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_saturate(sign, tmp_path):
    graph = Graph("extremes")
    x = graph.input("x", (1, 64, 5, 3))
    weight = graph.constant("w", np.full((7, 64, 3, 3), sign, np.float32))
    attrs = {"pads": [1, 1, 1, 1], "input_scale": 1.0, "input_zero": 0}
    graph.output("y", graph.add("conv2d", [x, weight], attrs)[0])
    write_test_plan(tmp_path / "a.plan", graph)
    image = np.full((1, 64, 5, 3), 255, np.float32)
    got = run_int8(tmp_path / "a.plan", {"x": image})["y"]
    assert np.allclose(got[0, :, 1:-1, 1], sign * 255 * 64 * 9, rtol=4e-3 if BF16 else 1e-6)


@pytest.mark.parametrize("rows", [1, 3, 130])
def test_values_between_int8_steps_are_stored_in_eight_bits(rows, isa, tmp_path):
    """layer_norm to a product with GELU to a product: nothing is written as f32 in between."""
    random = np.random.default_rng(0)
    graph = Graph("chain")
    width, hidden = 35, 67

    def constant(name, *shape):
        return graph.constant(name, random.normal(size=shape).astype(np.float32) / shape[-1] ** 0.5)

    x = graph.input("x", (1, rows, width))
    gamma, beta = graph.constant("g", np.ones(width)), graph.constant("b", np.zeros(width))
    (normed,) = graph.add("layer_norm", [x, gamma, beta], {"eps": 1e-5})
    first = {"activation": "gelu", "input_scale": 10 / 255, "input_zero": 128}
    (middle,) = graph.add(
        "linear", [normed, constant("w1", hidden, width), constant("b1", hidden)], first
    )
    second = {"input_scale": 5 / 255, "input_zero": 15}
    (y,) = graph.add("linear", [middle, constant("w2", 9, hidden), None, None], second)
    graph.output("y", y)
    write_test_plan(tmp_path / "a.plan", graph)
    image = random.normal(size=(1, rows, width)).astype(np.float32)
    want = reference.run(graph, {"x": image})["y"]
    got = run_int8(tmp_path / "a.plan", {"x": image}, isa=isa)["y"]
    error = np.abs(got - want).max() / np.abs(want).max()
    assert 1e-4 < error < 0.05
    exact = _core.run_graph(str(tmp_path / "a.plan"), {"x": image}, precision="f32", isa=isa)["y"]
    assert np.abs(exact - want).max() <= 1e-5 * np.abs(want).max()
    chosen = _core.run_graph(str(tmp_path / "a.plan"), {"x": image}, precision="int8", isa=isa)["y"]
    assert np.array_equal(chosen, exact if ZEN else got)


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    case = next(case for case in QUANTISED if case.op == "linear")
    arrays = case.arrays()
    arrays[1][0, 0] = np.nan
    graph, inputs = case.graph(arrays)
    graph.nodes[0].attrs |= {"input_scale": 0.1, "input_zero": 0}
    write_test_plan(tmp_path / "a.plan", graph)
    with pytest.raises(Exception, match="is not finite, so it cannot be quantised"):
        run_int8(tmp_path / "a.plan", inputs)


@pytest.mark.skipif(ISA != "", reason="is held to an instruction set already")
@pytest.mark.parametrize("isa_", ["avx512", "avx2", "scalar"])
def test_other_sets(isa_):
    if isa_ == "avx512" and isa_ + "bw" not in FLAGS:
        pytest.skip("this processor has no avx512")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", __file__],
        env={**os.environ, "ADFAST_ISA": isa_},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
