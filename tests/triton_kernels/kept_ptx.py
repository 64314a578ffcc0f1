"""Launching the kept PTX by what manifest.json says, from the very calls that JIT kernels get.

The launchers' own `launch` is replaced: the call is matched with a kept variant by its kernel,
dtypes, constexprs and alignment, and its grid is compared with the manifest's formula. On a GPU it
then goes to CUDA's driver, as the C++ engine does it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import json
import math
import sys
import tarfile
from typing import Any

import torch
from triton_cases import (
    KERNELS,
    Case,
    attention,
    blur,
    convolution,
    fused,
    gms,
    halo,
    load_kernels,
    norm,
    projector,
    scores,
    tokens,
)

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

# Together they reach every kept variant; widths and steps are multiples of 16.
HALVES = (torch.float16, torch.bfloat16)
ALL = (torch.float32, *HALVES)
_scored = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}


def calls() -> list[tuple[Case, torch.dtype, dict[str, Any]]]:
    """List cases, dtypes, and arguments that only the launchers take."""
    found: list[tuple[Case, torch.dtype, dict[str, Any]]] = []

    def add(case: Case, dtypes: tuple[torch.dtype, ...], **more: Any) -> None:
        found.extend((case, dtype, more) for dtype in dtypes)

    for dim in (16, 32, 64):
        add(attention(f"kept {dim}", 2, 67, 131, 2, dim), HALVES if dim == 16 else ALL)
        add(attention(f"kept long {dim}", 1, 1027, 65, 2, dim), HALVES)
    for queries in (49, 1027):
        add(attention(f"kept wide values {queries}", 2, queries, 49, 2, 32, 64), HALVES)
        add(attention(f"kept odd rows {queries}", 2, queries, 49, 3, 40), HALVES)
    add(attention("kept one head", 2, 24, 35, 1, 256), HALVES)
    for tile in importlib.import_module(f"{load_kernels().__name__}.conv2d").TILES:
        for splits in (1, 3):
            case = convolution(
                f"kept {tile[0]}x{tile[1]} in {splits}", 1, (13, 11), 80, out_channels=72,
                padding=(1, 1, 1, 1), residual=True, activation="silu",
            )  # fmt: skip
            add(case, HALVES, tile=tile, splits=splits)
    for legacy in (False, True):
        name = f"kept{' legacy' * legacy}"
        add(halo(name, 2, (36, 24), 12, 2, 2, 16, legacy=legacy), ALL)
    add(tokens("kept", 2, 600, 128, 8), ALL, out_dtype=torch.float32)
    for op in ("projector_attention", "projector_score_map"):
        for bias in (False, True):
            add(projector(op, f"kept {bias}", 2, 67, 128, 8, bias, tolerance=_scored), ALL)
    add(scores("kept few", 2, 67, 144), ALL)
    add(scores("kept many", 1, 1027, 144), ALL)
    for mode in range(1, 7):
        add(fused(mode, 2, label=" kept"), (torch.float32,))
    add(blur("kept", 2, (31, 33), 5), (torch.float32,))
    for width in (192, 768):
        for residual in (False, True):
            for out in ALL:
                tolerance = {"float32": {torch.float32: 1e-5}.get(out, 1.6e-2)}
                case = norm(f"kept {width} {residual}", 35, width, residual, tolerance=tolerance)
                add(case, (torch.float32,), out_dtype=out)
    add(gms("kept", 2, (17, 19)), ALL)
    return found


def manifest() -> dict[str, Any]:
    return json.loads((KERNELS / "manifest.json").read_text())


def ceil(x: float) -> int:
    return math.ceil(x)


class Kept:
    """The kept variants. `launched` has the names of those that calls were matched with."""

    def __init__(self, target: int | None = None):
        """Prepare to launch on a GPU of that compute capability; without one, only match."""
        self.variants = manifest()["variants"]
        self.target = target
        self.launched: set[str] = set()
        self._functions: dict[str, ctypes.c_void_p] = {}
        if target is not None:
            self.cuda = ctypes.CDLL("libcuda.so.1")
            with tarfile.open(KERNELS / "ptx.tar.xz", "r:xz") as archive:
                self.files = {entry.name: archive.extractfile(entry).read() for entry in archive}

    @contextlib.contextmanager
    def in_place(self):
        """Replace the launchers' way to a kernel."""
        package = load_kernels().__name__
        modules = [importlib.import_module(f"{package}.{family}") for family in FAMILIES]
        before = [(m, m.launch, m.check_launch) for m in modules]
        for module in modules:
            module.launch = self.launch
            if self.target is None:
                module.check_launch = lambda *_, **__: None
        try:
            yield self
        finally:
            for module, launch, check_launch in before:
                module.launch, module.check_launch = launch, check_launch

    def match(self, kernel: Any, named: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Find the most special variant that serves this call."""
        types = sys.modules[f"{load_kernels().__name__}.common"].TYPES

        def serves(variant: dict[str, Any]) -> bool:
            if variant["entry"] != kernel.__name__:
                return False
            if any(
                options.get(n, variant[n]) != variant[n] for n in ("num_warps", "num_stages")
            ) or any(named[n] != value for n, value in variant["constexprs"].items()):
                return False
            for argument in variant["arguments"][:-2]:
                value, kind = named[argument["name"]], argument["type"]
                is_pointer = isinstance(value, torch.Tensor)
                if is_pointer != kind.startswith("*") or value is None:
                    return False
                if is_pointer and kind != f"*{types[value.dtype]}":
                    return False
                number = value.data_ptr() if is_pointer else value
                if argument["multiple_of_16"] and number % 16:
                    return False
            return True

        found = [variant for variant in self.variants if serves(variant)]
        assert found, f"no kept variant of {kernel.__name__} for {named} {options}"
        return max(found, key=lambda variant: len(variant["constexprs"]))

    def launch(self, op: str, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any):
        """Stand in for the kernels' `launch`."""
        names = kernel.arg_names
        constexprs = {n: options.pop(n) for n in list(options) if n in names}
        named = dict(zip([n for n in names if n not in constexprs], arguments, strict=True))
        named |= constexprs
        variant = self.match(kernel, named, options)
        grid = (*grid, 1, 1)[:3]
        self.check_grid(variant, named, grid)
        self.launched.add(variant["name"])
        if self.target is not None:
            self.start(variant, named, grid)

    def check_grid(
        self, variant: dict[str, Any], named: dict[str, Any], grid: tuple[int, ...]
    ) -> None:
        # "batch" and "heads" are no arguments of the kernels.
        free = {"batch", "heads"}
        for formula, size in zip(variant["grid"], grid, strict=True):
            if formula not in free:
                value = eval(formula, {"ceil": ceil}, named)
                assert value == size, f"{variant['name']}: {formula} is {value}, launched {size}"

    def start(self, variant: dict[str, Any], named: dict[str, Any], grid: tuple[int, ...]) -> None:
        entry = variant["targets"][str(self.target)]
        function = self.function(variant, entry)
        packers = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}
        values = []
        for argument in variant["arguments"]:
            value = named.get(argument["name"])  # None: the hidden pointers
            if argument["type"].startswith("*"):
                values.append(ctypes.c_void_p(value.data_ptr() if value is not None else None))
            else:
                values.append(packers[argument["type"]](value))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        block = (32 * variant["num_warps"], 1, 1)
        self.call(
            "cuLaunchKernel", function, *grid, *block, entry["shared"], stream, pointers, None
        )

    def function(self, variant: dict[str, Any], entry: dict[str, Any]) -> ctypes.c_void_p:
        """Load PTX; the driver assembles it."""
        if entry["file"] not in self._functions:
            ptx = self.files[entry["file"]]
            assert hashlib.sha256(ptx).hexdigest() == entry["sha256"]
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(ptx))
            name = variant["entry"].encode()
            self.call("cuModuleGetFunction", ctypes.byref(function), module, name)
            largest_dynamic_shared_size = 8
            self.call("cuFuncSetAttribute", function, largest_dynamic_shared_size, entry["shared"])
            self._functions[entry["file"]] = function
        return self._functions[entry["file"]]

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.cuda, name)(*arguments)
        assert status == 0, f"{name} returned {status}"
