"""Which CUDA backend the tests of this folder run: a card's, or the emulated one."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import adfast
from adfast.devices import library_folders

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "ops"))  # for cases.py
EMULATED = ROOT / "build" / "python" / "tests" / "cuda" / "emulated"


@dataclass(frozen=True)
class Cuda:
    folders: list[str]
    emulated: bool


@pytest.fixture(scope="session")
def cuda() -> Cuda:
    """The card's backend if ADFAST_GPU_CHECK is set, else the emulated one."""
    if os.environ.get("ADFAST_GPU_CHECK"):
        return Cuda(library_folders(), emulated=False)
    if not (EMULATED / "libadfast_cuda.so").exists():
        pytest.fail("the emulated CUDA backend is not built: run `make test-cpp` first")
    return Cuda([str(EMULATED)], emulated=True)


@pytest.fixture(scope="session")
def on_cuda(cuda):
    """Load a plan on the backend under test."""

    def load(path, device="cuda", **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ADFAST_LIBRARIES", ":".join(cuda.folders))
            return adfast.load(path, device=device, **options)

    return load
