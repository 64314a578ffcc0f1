r"""Makes the kept PTX part of a C++ program: assembles it and writes sources that hold the cubins.

    python kernels/triton/embed.py --out build/triton --ptxas "$CUDA_HOME/bin/ptxas" \
        --variants '^(conv2d|attention)_(fp16|bf16)' --targets 80,90

writes triton_kernels.h, triton_kernels.cpp and triton_kernels.S, the last of which takes the bytes
from triton_kernels.bin beside it. Needs Python and ptxas from CUDA 12.8 on, neither PyTorch nor
Triton. Files are only written where they change, so that nothing is compiled again for nothing.
How to launch what is embedded: the top of compile.py.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

HEADER = """\
// Written by kernels/triton/embed.py.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace adfast::triton_kernels {

// One of the kernel's tile sizes and the like, by the name that manifest.json has.
struct Constant {
  const char* name;  // null behind the last
  int64_t value;
};

struct Kernel {
  const char* name;   // of the variant
  const char* entry;  // of the function in the cubin
  int32_t target;     // compute capability, 90 for 9.0
  bool exact;         // runs on that capability alone, not on later ones of the same major number
  int32_t threads;    // of a block
  int32_t shared;     // bytes of dynamic shared memory
  const Constant* constants;
  const unsigned char* cubin;
  size_t size;
};

extern const Kernel kKernels[];
extern const size_t kKernelCount;

}  // namespace adfast::triton_kernels
"""

ASSEMBLY = """\
// Written by kernels/triton/embed.py. sha256 of the bytes: {digest}
  .section .rodata
  .balign 64
  .globl adfast_triton_cubins
  .hidden adfast_triton_cubins
  .type adfast_triton_cubins, %object
adfast_triton_cubins:
  .incbin "{path}"
  .size adfast_triton_cubins, . - adfast_triton_cubins
  .section .note.GNU-stack, "", %progbits
"""


def chosen(pattern: str, targets: list[str]) -> list[tuple[dict[str, Any], str]]:
    """List the variants whose names match, each with each target."""
    manifest = json.loads((HERE / "manifest.json").read_text())
    found = [v for v in manifest["variants"] if re.search(pattern, v["name"])]
    if not found:
        raise ValueError(
            f"[embed] no variant's name matches {pattern!r}; compile.py --list prints them"
        )
    known = list(found[0]["targets"])
    if unknown := set(targets) - set(known):
        raise ValueError(f"[embed] no PTX is kept for {sorted(unknown)}, only for {known}")
    return [(variant, target) for variant in found for target in targets or known]


def assemble(ptxas: str, entry: dict[str, Any], ptx: bytes, folder: Path) -> bytes:
    """Turn PTX into a cubin."""
    if hashlib.sha256(ptx).hexdigest() != entry["sha256"]:
        raise ValueError(
            f"[embed] {entry['file']} is not what manifest.json says; compile.py makes both anew"
        )
    source, result = folder / entry["file"], folder / f"{entry['file']}.cubin"
    source.write_bytes(ptx)
    command = [ptxas, f"-arch={entry['target']}", str(source), "-o", str(result)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(
            f"[embed] {ptxas} failed on {entry['file']}; ptxas of CUDA 12.8 or later is needed:\n"
            f"{done.stderr.strip()}"
        )
    return result.read_bytes()


def sources(kernels: list[tuple[dict[str, Any], str]], cubins: list[bytes]) -> tuple[str, bytes]:
    """Write the table, and all cubins one after the other, each from a multiple of 64 bytes."""
    table, constants, binary = [], [], b""
    for index, ((variant, target), cubin) in enumerate(zip(kernels, cubins, strict=True)):
        entry = variant["targets"][target]
        whole = {
            k: v for k, v in variant["constexprs"].items() if isinstance(v, (bool, int))
        }  # without the text and None among them
        pairs = ", ".join(f'{{"{k}", {int(v)}}}' for k, v in whole.items())
        constants.append(f"const Constant kConstants{index}[] = {{{pairs}, {{nullptr, 0}}}};")
        exact = "true" if entry["target"].endswith("a") else "false"
        table.append(
            f'    {{"{variant["name"]}", "{variant["entry"]}", {target}, {exact}, '
            f"{32 * variant['num_warps']}, {entry['shared']}, kConstants{index}, "
            f"adfast_triton_cubins + {len(binary)}, {len(cubin)}}},"
        )
        binary += cubin + bytes(-len(cubin) % 64)
    lines = [
        "// Written by kernels/triton/embed.py.",
        '#include "triton_kernels.h"',
        "",
        'extern "C" __attribute__((visibility("hidden"))) const unsigned char '
        "adfast_triton_cubins[];",
        "",
        "namespace adfast::triton_kernels {",
        "namespace {",
        *constants,
        "}  // namespace",
        "",
        "const Kernel kKernels[] = {",
        *table,
        "};",
        "const size_t kKernelCount = sizeof(kKernels) / sizeof(kKernels[0]);",
        "",
        "}  // namespace adfast::triton_kernels",
        "",
    ]
    return "\n".join(lines), binary


def replace(path: Path, content: bytes) -> None:
    """Write a file if its content is another; nobody meets half of it."""
    if not path.exists() or path.read_bytes() != content:
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(content)
        temporary.replace(path)


def embed(out: Path, ptxas: str, pattern: str, targets: list[str]) -> str:
    """Write all files; returns a line that says what is in them."""
    kernels = chosen(pattern, targets)
    with tarfile.open(HERE / "ptx.tar.xz", "r:xz") as archive:
        ptx = {entry.name: archive.extractfile(entry).read() for entry in archive}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor() as pool:

        def one(kernel: tuple[dict[str, Any], str]) -> bytes:
            entry = kernel[0]["targets"][kernel[1]]
            return assemble(ptxas, entry, ptx[entry["file"]], Path(folder))

        cubins = list(pool.map(one, kernels))
    table, binary = sources(kernels, cubins)
    out.mkdir(parents=True, exist_ok=True)
    path = (out / "triton_kernels.bin").resolve()
    # The digest makes the assembly change with the bytes, which a compiler's dependencies miss.
    assembly = ASSEMBLY.format(digest=hashlib.sha256(binary).hexdigest(), path=path)
    replace(path, binary)
    replace(out / "triton_kernels.h", HEADER.encode())
    replace(out / "triton_kernels.cpp", table.encode())
    replace(out / "triton_kernels.S", assembly.encode())
    return f"{len(kernels)} kernels, {len(binary) / 1e3:.0f} kB"


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the sources")
    parser.add_argument("--ptxas", default=os.environ.get("PTXAS", "ptxas"))
    parser.add_argument("--variants", default="", help="regular expression; all if left out")
    parser.add_argument(
        "--targets", default="", help="compute capabilities, 80,90; all if left out"
    )
    options = parser.parse_args(argv)
    targets = [target for target in options.targets.split(",") if target]
    try:
        print(embed(options.out, options.ptxas, options.variants, targets))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
