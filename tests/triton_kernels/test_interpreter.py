"""Every kernel in Triton's interpreter against its reference in float64, in one other process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest


def parse(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


pytest.importorskip("triton.language", reason="Triton is not installed")

if parse(version("triton")) < (3, 7) and parse(version("numpy")) >= (2, 4):
    pytest.skip("Triton 3.6 cannot interpret with NumPy 2.4", allow_module_level=True)

HERE = Path(__file__).parent


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}


def runs() -> list[str]:
    from triton_cases import CASES

    # As run_interpreted.RUNS has them, which must not be imported here: it sets TRITON_INTERPRET.
    return [
        f"{case}-{dtype}"
        for case in CASES
        if not case.large
        for dtype in (("float32", "float16") if case.half else ("float32",))
    ]


@pytest.fixture(scope="session")
def results() -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, str(HERE / "run_interpreted.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
    )
    found = {}
    for text in done.stdout.splitlines():
        line = json.loads(text)
        found[line["run"]] = line
    if done.returncode:
        last = next(reversed(found), "before the first case")
        found[last] = {"raised": f"the process ended with {done.returncode}: {done.stderr[-2000:]}"}
    return found


@pytest.mark.parametrize("run", runs())
def test_kernel(run, results):
    assert run in results, f"not reached: {[r for r in results.items() if 'raised' in r[1]]}"
    result = results[run]
    assert "raised" not in result, result["raised"]
    assert result["error"] <= result["allowed"]


def test_gradients_are_those_of_the_reference():
    """Through the kernels forward, through the reference backward: exactly its gradient."""
    pytest.importorskip("adfast.ops")
    done = subprocess.run(
        [sys.executable, str(HERE / "run_gradients.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(done.stdout.split()) == {
        "attention",
        "fuse_maps",
        "gaussian_blur",
        "gms_map",
        "halo_attention",
        "layer_norm",
        "projector_attention",
        "projector_score_map",
        "score_map",
        "token_attention",
    }
