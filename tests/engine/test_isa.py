"""ADFAST_ISA holds kernels and oneDNN to one instruction set; all of them agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

CODE = """
import json, sys, numpy, adfast
engine = adfast.load(sys.argv[1], precision=sys.argv[2] or None)
frame = numpy.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=numpy.uint8)
kernels = sorted({s["kernel"] for s in engine.profile(frame)})
info = engine.info
print(json.dumps([info["isa"], info["precision"], kernels,
                  engine.predict(frame).network_map.tolist()]))
"""


def forced(plan, isa: str, precision: str = "") -> tuple[str, str, list[str], np.ndarray]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(plan), precision],
        env={**os.environ, "ADFAST_ISA": isa},
        capture_output=True,
        text=True,
    )
    if "this processor lacks it" in done.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert done.returncode == 0, done.stderr
    *rest, values = json.loads(done.stdout)
    return *rest, np.array(values)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx"])
def test_forced_sets_agree(tiny_plan, isa):
    name, _, kernels, got = forced(tiny_plan, isa, "f32")
    assert name == isa
    onednn = " ".join(k for k in kernels if k.startswith("onednn"))
    assert ("avx512" in onednn) == isa.startswith("avx512")
    assert ("avx2" in onednn) == (isa == "avx2")
    expected = forced(tiny_plan, "scalar", "f32")[-1]
    assert np.abs(got - expected).max() <= 1e-5 * expected.max()


@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_bf16_without_avx512_is_computed_in_f32_between_maps_in_bf16(tiny_plan, isa):
    _, precision, _, expected = forced(tiny_plan, isa)  # the plan's own precision may be widened
    assert precision == "f32"
    _, precision, kernels, got = forced(tiny_plan, isa, "bf16")  # who insists gets it
    assert precision == "bf16"
    assert any(k.startswith("onednn") and k.endswith(":widened") for k in kernels), kernels
    assert 0 < np.abs(got - expected).max() <= 0.05 * expected.max()


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx"])
def test_forced_sets_agree_in_bf16(tiny_plan, isa):
    _, precision, _, got = forced(tiny_plan, isa, "bf16")
    assert precision == "bf16"
    expected = forced(tiny_plan, "scalar", "f32")[-1]
    assert 0 < np.abs(got - expected).max() <= 0.05 * expected.max()


def test_an_unknown_set_is_refused(tiny_plan):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tiny_plan), ""],
        env={**os.environ, "ADFAST_ISA": "neon"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "isa is 'neon', expected" in done.stderr


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16", "avx512_amx"])
def test_int8_runs_everywhere_and_never_in_the_reference(tiny_int8_plan, isa):
    _, precision, kernels, got = forced(tiny_int8_plan, isa, "int8")
    assert precision == "int8" and not any("ref" in kernel for kernel in kernels)
    assert sum("int8" in k or "vnni" in k or "amx" in k for k in kernels) >= 1
    expected = forced(tiny_int8_plan, isa, "f32")[-1]
    assert 0 < np.abs(got - expected).max() <= 0.2 * expected.max()
