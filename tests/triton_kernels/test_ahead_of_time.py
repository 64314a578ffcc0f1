"""What is kept in kernels/triton is what Triton makes of the sources today."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from kept_ptx import Kept, calls
from triton_cases import load_kernels

pytest.importorskip("triton.language", reason="Triton is not installed")

KERNELS = Path(__file__).parent.parent.parent / "kernels" / "triton"
MANIFEST = json.loads((KERNELS / "manifest.json").read_text())


def compile_py(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(KERNELS / "compile.py"), *options], capture_output=True, text=True
    )


@pytest.mark.skipif(
    version("triton") != MANIFEST["triton"],
    reason=f"kept files are Triton {MANIFEST['triton']}'s, of constraints.txt",
)
def test_triton_yields_exactly_what_is_kept():
    """Each variant for one of the targets: what differs in its source differs for all of them."""
    done = compile_py("--check", "--in-turn")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_the_pinned_triton_made_the_kept_files():
    pinned = (KERNELS.parent.parent / "constraints.txt").read_text().splitlines()
    assert f"triton=={MANIFEST['triton']}" in pinned


def test_variants_for_the_engine_are_there():
    names = {variant["name"] for variant in MANIFEST["variants"]}
    for dtype in ("fp16", "bf16"):
        assert {f"attention_{dtype}_d{d}_q{q}" for d in (16, 32, 64) for q in (64, 128)} <= names
        assert f"halo_attention_{dtype}_b12h2_d16" in names
    targets = {tuple(variant["targets"]) for variant in MANIFEST["variants"]}
    assert targets == {("80", "86", "89", "90", "100", "120")}
    assert (KERNELS / "ptx.tar.xz").stat().st_size < 1e6


def test_unknown_targets_are_refused():
    done = compile_py("--check", "--targets", "75")
    assert done.returncode == 2 and "--targets has [75]" in done.stderr


def test_launchers_and_manifest_agree():
    """Each variant is what some launcher asks for: arguments, dtypes, tiles, alignment and grid."""
    kernels, kept = load_kernels(), Kept()
    with kept.in_place():
        for case, dtype, more in calls():
            getattr(kernels, case.op)(**case.arguments(dtype), **more)
    assert kept.launched == {variant["name"] for variant in MANIFEST["variants"]}


def test_another_alignment_is_not_served():
    x = torch.zeros(1, 9, 30, dtype=torch.float16)  # rows of 30 elements
    with Kept().in_place(), pytest.raises(AssertionError, match="no kept variant"):
        load_kernels().attention(x, x, x, 1, 1.0)
