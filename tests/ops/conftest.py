from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from adfast import _core
from adfast.compiler.graph import Graph
from adfast.compiler.writer import write_test_plan
from adfast.errors import ArgumentError

ISAS = ("scalar", "avx2", "avx512")


@functools.cache
def _lacking(isa: str, folder: Path) -> str:
    """Why the processor cannot run an instruction set; "" if it can."""
    graph = Graph("probe")
    graph.output("y", graph.add("relu", [graph.input("x", (1,))])[0])
    path = folder / f"{isa}.plan"
    write_test_plan(path, graph)
    try:
        _core.run_graph(str(path), {"x": np.zeros(1, np.float32)}, isa=isa)
    except ArgumentError as error:
        assert "lacks" in str(error), error
        return str(error)
    return ""


@pytest.fixture(params=ISAS)
def isa(request, tmp_path_factory) -> str:
    """Every instruction set; skipped only where the processor lacks it."""
    reason = _lacking(request.param, tmp_path_factory.getbasetemp())
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.fixture(scope="session")
def bf16_runs(tmp_path_factory) -> bool:
    """Whether convolutions and products run in bf16 here: oneDNN asks for AVX-512."""
    return not _lacking("avx512", tmp_path_factory.getbasetemp())
