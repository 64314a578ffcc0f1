"""Who may use whom (CONTRIBUTING.md), read off the includes and imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {".h", ".hpp", ".cpp"}

# Folder: prefixes of what its files may include beside the standard library.
INCLUDES = {
    "kernels/cpu": ("kernels/cpu/",),
    "csrc/core": ("core/",),
    "csrc/plan": ("core/", "plan/"),
    "csrc/runtime": ("core/", "plan/", "runtime/"),
    "csrc/backends/cpu": ("core/", "plan/", "runtime/", "backends/cpu/", "kernels/cpu/", "oneapi/"),
}
STL_FREE = ("kernels/cpu",)
C_HEADERS = {"stddef.h", "stdint.h", "math.h", "string.h", "immintrin.h", "xmmintrin.h"}

# Module prefix: packages that it must never import, at any depth of its source.
NEVER = {
    "adfast/compiler": ("torch", "timm", "adfast._core", "adfast.engine", "adfast.models"),
    "adfast/models": ("adfast._core", "adfast.engine"),
    "adfast/training": ("adfast._core", "adfast.engine"),
    "adfast/data": ("adfast._core", "adfast.engine"),
}


def files(folder: str):
    return [p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in SOURCES]


@pytest.mark.parametrize("folder", INCLUDES)
def test_includes(folder):
    assert files(folder)
    for path in files(folder):
        for quoted in re.findall(r'^#include "(.+)"', path.read_text(), re.M):
            beside = (path.parent / quoted).exists()
            assert beside or quoted.startswith(INCLUDES[folder]), f"{path}: {quoted}"


@pytest.mark.parametrize("folder", STL_FREE)
def test_kernels_use_no_stl(folder):
    for path in files(folder):
        for header in re.findall(r"^#include <(.+)>", path.read_text(), re.M):
            assert header in C_HEADERS, f"{path}: <{header}>"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("folder", NEVER)
def test_imports(folder):
    paths = sorted((ROOT / "python" / folder).rglob("*.py"))
    assert paths
    for path in paths:
        for name in imports(path):
            for banned in NEVER[folder]:
                assert name != banned and not name.startswith(banned + "."), f"{path}: {name}"
