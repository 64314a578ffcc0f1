"""Compiles every variant ahead of time to PTX, which CUDA's ptxas turns into the engine's cubins.

    python kernels/triton/compile.py                      # write ptx.tar.xz and manifest.json anew
    python kernels/triton/compile.py --only conv2d        # only these, and what is new
    python kernels/triton/compile.py --check              # does Triton still yield exactly these?
    python kernels/triton/compile.py --check --in-turn    # each variant for one target only
    python kernels/triton/compile.py --list               # names of the variants

No GPU and no installed adfast are needed, only PyTorch and the Triton of constraints.txt: another
version writes other PTX. The two files are kept in the repository, so that whoever builds the
engine needs CUDA's compiler alone. Triton's line numbers are left out and the version of PTX is
fixed; so the output is the same, to the byte, whatever machine and toolkit it is made with.

How to launch a variant (manifest.json says all of it again, per variant):
  * Assemble `targets[T].file` of the archive with `ptxas -arch=<target>` and load the cubin, or let
    embed.py do it and make sources of it; the
    function is called `entry`. A target that ends in "a" runs on that compute capability alone; the
    others also on later ones of the same major number, sm_80 on 8.6, 8.7 and 8.9 as well.
  * The grid is `grid`, in the names of the arguments and constexprs; a block is
    (32 * num_warps, 1, 1) threads; `targets[T].shared` is its dynamic shared memory in bytes, for
    which cudaFuncAttributeMaxDynamicSharedMemorySize must be raised where it is above 48 kB.
  * `arguments` are passed in this order. "*" is a pointer (8 bytes), i64 int64_t, i32 int32_t, fp32
    float. The last two are Triton's scratch, which none of these kernels use: null pointers.
  * Where `multiple_of_16` is true the value must be one (of a pointer: the address in bytes); the
    compiler has relied on it. Strides are in elements.
"""

import argparse
import hashlib
import importlib.util
import io
import json
import lzma
import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ARCHIVE, MANIFEST = HERE / "ptx.tar.xz", HERE / "manifest.json"
FAMILIES = (
    "conv2d",
    "attention",
    "halo_attention",
    "token_attention",
    "projector_attention",
    "score_map",
    "fuse_maps",
    "gaussian_blur",
    "layer_norm",
    "gms_map",
)
# Compute capability: bytes of shared memory that a block may have.
SHARED = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
# 8.7 is the first that knows sm_120, CUDA 12.8's: newer than any driver need be.
PTX_VERSION = 87
SIZES = {"i32": 4, "fp32": 4, "i64": 8}
HIDDEN = ("global_scratch", "profile_scratch")


def load_package() -> ModuleType:
    """Import this folder as a package, whatever it is called and whether or not it is installed."""
    name = "adfast_triton_kernels"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, HERE / "__init__.py", submodule_search_locations=[str(HERE)]
        )
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def variants() -> list[Any]:
    """All families' variants, their names checked to be unique."""
    load_package()
    found = [
        variant
        for family in FAMILIES
        for variant in importlib.import_module(f"adfast_triton_kernels.{family}").VARIANTS
    ]
    names = [variant.name for variant in found]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"[compile] several variants are called {', '.join(twice)}")
    return found


def cuda_ptxas() -> Path | None:
    """Find the ptxas of the CUDA toolkit on this machine."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    beside = [Path(home) / "bin"] if home else []
    if nvcc := shutil.which("nvcc"):
        beside += [Path(nvcc).parent, Path(nvcc).resolve().parent]
    beside.append(Path("/usr/local/cuda/bin"))
    return next((folder / "ptxas" for folder in beside if (folder / "ptxas").exists()), None)


def prepare(cache: str) -> None:
    """Set what Triton reads from the environment; before it is imported."""
    os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels cannot be compiled
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
    os.environ["TRITON_CACHE_DIR"] = cache
    if ptxas := cuda_ptxas():
        os.environ.setdefault("TRITON_PTXAS_PATH", str(ptxas))
        os.environ.setdefault("TRITON_PTXAS_BLACKWELL_PATH", str(ptxas))


def arguments_of(variant: Any) -> list[dict[str, Any]]:
    """List the arguments of a launch in order."""
    names = variant.kernel.arg_names
    unknown = (set(variant.types) | set(variant.constexprs)) ^ set(names)
    unknown |= set(variant.aligned) - set(variant.types)
    if unknown:
        raise ValueError(
            f"[compile] {variant.name}: {', '.join(sorted(unknown))} must be both an argument of "
            "the kernel and in types or constexprs"
        )
    visible = [
        {"name": n, "type": variant.types[n], "multiple_of_16": n in variant.aligned}
        for n in names
        if n not in variant.constexprs
    ]
    return visible + [{"name": n, "type": "*i8", "multiple_of_16": False} for n in HIDDEN]


def check_compiled(variant: Any, target: int, compiled: Any) -> str:
    """Refuse a kernel that cannot be launched as promised; returns its target's name."""
    metadata, ptx = compiled.metadata, compiled.asm["ptx"]
    where = f"[compile] {variant.name} for {target}"
    for field in ("global_scratch_size", "profile_scratch_size"):
        if getattr(metadata, field, 0) != 0:
            raise ValueError(f"{where}: {field} is {getattr(metadata, field)}, expected 0")
    clusters = [metadata.num_ctas, *getattr(metadata, "cluster_dims", ())]
    if any(size != 1 for size in clusters):
        raise ValueError(f"{where}: clusters of {clusters} programs, expected 1")
    if metadata.shared > SHARED[target]:
        raise ValueError(
            f"{where}: {metadata.shared} bytes of shared memory, at most {SHARED[target]} fit; "
            "choose smaller tiles or fewer stages"
        )
    for field in ("launch_pdl", "launch_cooperative_grid"):
        if getattr(metadata, field, False):
            raise ValueError(f"{where}: {field} is set, which a plain launch does not do")
    if getattr(metadata, "tensordesc_meta", None):
        raise ValueError(f"{where}: uses tensor descriptors, which a plain launch cannot pass")
    entries = re.findall(r"\.entry (\w+)\(([^)]*)\)", ptx)
    if [name for name, _ in entries] != [metadata.name]:
        raise ValueError(f"{where}: entries are {entries}, expected {metadata.name} alone")
    got = [
        {"u64": 8, "b64": 8, "u32": 4, "b32": 4, "f32": 4}[kind]
        for kind in re.findall(r"\.param \.(\w+)", entries[0][1])
    ]
    want = [SIZES.get(argument["type"], 8) for argument in arguments_of(variant)]
    if got != want:
        raise ValueError(f"{where}: parameters of {got} bytes, expected {want}")
    threads = re.findall(r"\.reqntid (\d+)", ptx)
    if threads != [str(32 * metadata.num_warps)] or metadata.num_warps != variant.num_warps:
        raise ValueError(f"{where}: {threads} threads, expected {32 * variant.num_warps}")
    return re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]


def compile_variant(variant: Any, target: int) -> tuple[dict[str, Any], bytes]:
    """Compile for one compute capability: its part of the manifest, and PTX."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    source = ASTSource(
        fn=variant.kernel,
        signature={n: variant.types.get(n, "constexpr") for n in names},
        constexprs=dict(variant.constexprs),
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in variant.aligned},
    )
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", target, 32),
        options=options | {"ptx_version": PTX_VERSION},
    )
    name = check_compiled(variant, target, compiled)
    ptx = compiled.asm["ptx"].encode()
    entry = {
        "target": name,
        "file": f"{variant.name}.{name}.ptx",
        "shared": compiled.metadata.shared,
        "sha256": hashlib.sha256(ptx).hexdigest(),
    }
    return entry, ptx


def describe(variant: Any) -> dict[str, Any]:
    """Return what the manifest says of a variant but for its targets."""
    described = {
        "name": variant.name,
        "entry": variant.kernel.__name__,
        "grid": list(variant.grid),
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "constexprs": dict(variant.constexprs),
        "arguments": arguments_of(variant),
    }
    return described | ({"notes": variant.notes} if variant.notes else {})


def pack(files: dict[str, bytes]) -> bytes:
    """Put files into a tar.xz that depends on nothing but them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def unpack() -> dict[str, bytes]:
    """Read the archive that is kept."""
    with tarfile.open(ARCHIVE, "r:xz") as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}


def lines(value: Any, depth: int = 4, margin: str = "") -> str:
    """JSON of which only the outer `depth` levels are spread over lines."""
    if depth == 0 or not isinstance(value, (dict, list)) or not value:
        return json.dumps(value)
    inner = margin + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(k)}: {lines(v, depth - 1, inner)}" for k, v in value.items()]
    else:
        parts = [lines(v, depth - 1, inner) for v in value]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return f"{begin}\n{inner}" + f",\n{inner}".join(parts) + f"\n{margin}{end}"


def write(path: Path, content: bytes) -> None:
    """Replace a file; nobody meets half of it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)


def without_targets(described: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of a variant as `describe` does."""
    return {key: value for key, value in described.items() if key != "targets"}


def build(only: str = "") -> str:
    """Compile and write both files; returns a line that says what was written.

    With `only`, variants whose names do not contain it stay as they are kept, where they are kept
    and the manifest describes them as the sources do.
    """
    import triton

    kept: dict[str, dict[str, Any]] = {}
    if only:
        old, old_files = json.loads(MANIFEST.read_text()), unpack()
        if (old["triton"], old["ptx_version"]) != (triton.__version__, PTX_VERSION):
            raise ValueError(
                f"[compile] what is kept was made with Triton {old['triton']}, this is "
                f"{triton.__version__}: compile all, without --only"
            )
        kept = {variant["name"]: variant for variant in old["variants"]}
    found: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    compiled = 0
    for variant in variants():
        described = describe(variant)
        before = kept.get(variant.name, {})
        if only not in variant.name and without_targets(before) == described:
            found.append(before)
            files |= {e["file"]: old_files[e["file"]] for e in before["targets"].values()}
            continue
        described["targets"] = {}
        for target in SHARED:
            entry, ptx = compile_variant(variant, target)
            described["targets"][str(target)] = entry
            files[entry["file"]] = ptx
        found.append(described)
        compiled += 1
    manifest = {
        "triton": triton.__version__,
        "ptx_version": PTX_VERSION,
        "archive": ARCHIVE.name,
        "variants": found,
    }
    packed = pack(files)
    write(ARCHIVE, packed)
    write(MANIFEST, (lines(manifest) + "\n").encode())
    return (
        f"{compiled} of {len(found)} variants compiled, {len(files)} files of PTX, "
        f"{len(packed) / 1e3:.0f} kB packed"
    )


def differences(targets: list[int], in_turn: bool = False, only: str = "") -> list[str]:
    """Compile again and say where the kept files differ; an empty list if nowhere.

    With `in_turn` each variant is compiled for one of the targets, the next one for the next.
    """
    import triton

    manifest = json.loads(MANIFEST.read_text())
    if manifest["triton"] != triton.__version__:
        return [f"made with Triton {manifest['triton']}, this is {triton.__version__}"]
    kept = {variant["name"]: variant for variant in manifest["variants"]}
    files, found = unpack(), []
    names = {variant.name for variant in variants()}
    found += [f"{name} is kept and no longer a variant" for name in sorted(set(kept) - names)]
    found += [f"{name} is not kept" for name in sorted(names - set(kept))]
    listed = {entry["file"] for variant in kept.values() for entry in variant["targets"].values()}
    if listed != set(files):
        found.append(f"archive and manifest disagree about {sorted(listed ^ set(files))}")
    for place, variant in enumerate(variants()):
        described = kept.get(variant.name, {})
        if without_targets(described) != describe(variant):
            found.append(f"{variant.name}: the manifest describes it otherwise")
        for target, entry in described.get("targets", {}).items():
            content = files.get(entry["file"], b"")
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                found.append(f"{variant.name} for {target}: the archive's hash is another")
        chosen = [targets[place % len(targets)]] if in_turn else targets
        for target in chosen if only in variant.name else ():
            entry, ptx = compile_variant(variant, target)
            told = described.get("targets", {}).get(str(target), {})
            if told != entry:
                found.append(f"{variant.name} for {target}: the manifest's entry is another")
            if files.get(told.get("file")) != ptx:
                found.append(f"{variant.name} for {target}: the PTX is another")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="How to launch what it writes: the text at the top of this file.",
    )
    parser.add_argument("--check", action="store_true", help="compare with the kept files")
    parser.add_argument("--list", action="store_true", help="print the variants' names")
    parser.add_argument(
        "--targets",
        default=",".join(map(str, SHARED)),
        help="compute capabilities to compile again with --check (default: %(default)s); of the "
        "others only the kept hashes are checked",
    )
    parser.add_argument(
        "--in-turn",
        action="store_true",
        help="with --check: each variant for one of the targets, the next one for the next",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="compile variants whose names contain it, and those that are new or described "
        "otherwise; the others stay as they are kept",
    )
    options = parser.parse_args(argv)
    targets = [int(target) for target in options.targets.split(",")]
    if unknown := set(targets) - set(SHARED):
        parser.error(f"--targets has {sorted(unknown)}, expected some of {list(SHARED)}")
    with tempfile.TemporaryDirectory() as cache:
        prepare(cache)
        if not load_package().AVAILABLE:
            print("Triton is not installed; its version is in constraints.txt", file=sys.stderr)
            return 2
        if options.list:
            print("\n".join(variant.name for variant in variants()))
        elif options.check:
            found = differences(targets, options.in_turn, options.only)
            print("\n".join(found) or "Triton yields exactly what is kept.")
            return 1 if found else 0
        else:
            print(build(options.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
