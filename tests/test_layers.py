"""Who may use whom (CONTRIBUTING.md), read off the includes and imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {".h", ".hpp", ".cpp", ".cu"}

# Folder: prefixes of what its files may include beside the standard library.
INCLUDES = {
    "kernels/cpu": ("kernels/cpu/",),
    "csrc/core": ("core/",),
    "csrc/plan": ("core/", "plan/"),
    "kernels/cuda": ("kernels/cuda/",),
    "csrc/runtime": ("core/", "plan/", "runtime/"),
    "csrc/backends/cuda": ("core/", "plan/", "runtime/", "backends/cuda/", "kernels/cuda/")
    + ("triton_kernels.h",),  # made by kernels/triton/embed.py
    "csrc/backends/cpu": ("core/", "plan/", "runtime/", "backends/cpu/", "kernels/cpu/", "oneapi/"),
}
STL_FREE = ("kernels/cpu",)
C_HEADERS = {"stddef.h", "stdint.h", "math.h", "string.h", "immintrin.h", "xmmintrin.h"} | {
    "cpuid.h",
    "sys/syscall.h",
    "unistd.h",  # which instruction sets there are
}

# Module prefix: packages that it must never import, at any depth of its source.
NEVER = {
    "adfast/compiler": ("torch", "timm", "adfast._core", "adfast.engine", "adfast.models"),
    "adfast/models": ("adfast._core", "adfast.engine"),
    "adfast/training": ("adfast._core", "adfast.engine"),
    "adfast/data": ("adfast._core", "adfast.engine"),
    "adfast/ops.py": ("adfast._core", "adfast.engine", "adfast.models", "adfast.compiler"),
}
# Folder: packages it may import beside the standard library and itself.
ONLY = {"kernels/triton": ("torch", "triton")}


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


def test_engine_uses_no_streams():
    """Their locales crash where two copies of the C++ library meet in a process."""
    for path in files("csrc"):
        streams = re.findall(r"^#include <(\w*stream|locale|iomanip)>", path.read_text(), re.M)
        assert not streams, f"{path}: {streams}"


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
    place = ROOT / "python" / folder
    paths = [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert paths
    for path in paths:
        for name in imports(path):
            for banned in NEVER[folder]:
                assert name != banned and not name.startswith(banned + "."), f"{path}: {name}"


@pytest.mark.parametrize("folder", ONLY)
def test_imports_nothing_else(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                # A dot is the folder itself; two are beyond it.
                assert node.level <= 1, f"{path}: a relative import that leaves the folder"
                names = [] if node.level else [node.module]
            for package in {name.partition(".")[0] for name in names}:
                allowed = package in ONLY[folder] or package in sys.stdlib_module_names
                assert allowed, f"{path}: {package}"


def test_import_adfast_stays_light():
    """`adfast.ops` and what it needs come only when asked for."""
    script = "import sys, adfast; print(*(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "triton", "onnx", "timm"} & set(done.stdout.split())
