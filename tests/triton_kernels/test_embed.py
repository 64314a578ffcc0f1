"""The kept PTX as part of a C++ program: assembled, linked, found by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).parent.parent.parent / "kernels" / "triton"
VARIANTS = json.loads((KERNELS / "manifest.json").read_text())["variants"]

MAIN = """
#include <cstdio>
#include <cstring>

#include "triton_kernels.h"

int main() {
  using namespace adfast::triton_kernels;
  for (size_t i = 0; i < kKernelCount; i++) {
    const Kernel& k = kKernels[i];
    int64_t block_q = 0;
    for (const Constant* c = k.constants; c->name; c++) {
      if (!std::strcmp(c->name, "BLOCK_Q")) block_q = c->value;
    }
    std::printf("%s %s %d %d %d %d %lld %d\\n", k.name, k.entry, k.target, k.exact, k.threads,
                k.shared, static_cast<long long>(block_q),
                k.size > 64 && !std::memcmp(k.cubin, "\\177ELF", 4));
  }
}
"""


def ptxas() -> str:
    if found := shutil.which("ptxas"):
        return found
    language = pytest.importorskip("triton.language", reason="there is no ptxas, nor Triton's own")
    return str(Path(language.__file__).parent.parent / "backends" / "nvidia" / "bin" / "ptxas")


def embed(out: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, KERNELS / "embed.py", "--out", out, "--ptxas", ptxas(), *options]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def test_a_program_finds_its_cubins(tmp_path):
    done = embed(tmp_path, "--variants", "^(halo_)?attention_fp16_.*d16", "--targets", "80,90")
    assert done.returncode == 0, done.stderr
    (tmp_path / "main.cpp").write_text(MAIN)
    names = ["main.cpp", "triton_kernels.cpp", "triton_kernels.S"]
    command = ["c++", "-std=c++20", "-Wall", "-Werror", *names, "-o", "main"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    lines = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    want = []
    for v in VARIANTS:
        if v["name"].startswith(("attention_fp16_d16", "halo_attention_fp16")):
            for target, exact in (("80", 0), ("90", 1)):
                shared, block_q = v["targets"][target]["shared"], v["constexprs"]["BLOCK_Q"]
                threads = 32 * v["num_warps"]
                want.append(
                    f"{v['name']} {v['entry']} {target} {exact} {threads} {shared} {block_q} 1"
                )
    assert len(want) == 8 and lines.splitlines() == want
    # Again: nothing is touched.
    times = [(tmp_path / name).stat().st_mtime_ns for name in names[1:]]
    embed(tmp_path, "--variants", "^(halo_)?attention_fp16_.*d16", "--targets", "80,90")
    assert times == [(tmp_path / name).stat().st_mtime_ns for name in names[1:]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--variants", "flash"), "no variant's name matches 'flash'"),
        (("--targets", "75"), "no PTX is kept for ['75'], only for ['80', '86'"),
        (("--ptxas", "/nowhere/ptxas", "--targets", "80"), "/nowhere/ptxas"),
    ],
)
def test_errors(options, words, tmp_path):
    done = embed(tmp_path, *options)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
