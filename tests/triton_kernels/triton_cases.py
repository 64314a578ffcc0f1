"""The Triton kernels' cases, for the interpreter here and for a GPU in tests/gpu.

Each case is a call: its tensors in float64, of which those called `stored` take the dtype under
test and the others float32, as the engine has them. The kernel's result is compared with its
reference's in float64 of the very same values, so that only the kernel's arithmetic is measured.

Needs pytest, torch and Triton only, and no installed adfast.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

KERNELS = Path(__file__).resolve().parent.parent.parent / "kernels" / "triton"


def load_kernels() -> ModuleType:
    """Import adfast.triton; where adfast is not installed, kernels/triton under that name."""
    name = "adfast.triton"
    if name not in sys.modules:
        try:
            return importlib.import_module(name)
        except ImportError:
            spec = importlib.util.spec_from_file_location(
                name, KERNELS / "__init__.py", submodule_search_locations=[str(KERNELS)]
            )
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    return sys.modules[name]


def load_ops() -> ModuleType:
    """Import adfast.ops, where adfast is not installed from this checkout's source alone."""
    load_kernels()
    try:
        return importlib.import_module("adfast.ops")
    except ImportError:
        # The package without its __init__, which needs the compiled module.
        package = ModuleType("adfast")
        package.__path__ = [str(KERNELS.parent.parent / "python" / "adfast")]
        package.triton = sys.modules["adfast.triton"]
        sys.modules["adfast"] = package
        return importlib.import_module("adfast.ops")


@dataclass(frozen=True)
class Case:
    """One call of a kernel.

    Attributes:
        op: name of the launcher; the reference has the same and `_reference`.
        label: what is special about it.
        make: tensors (float64) and other arguments by name, from a seeded generator.
        stored: names of the tensors in the dtype under test.
        tolerance: largest error allowed, as a fraction of the largest expected value, by dtype.
        large: for a GPU only; the interpreter would take too long.
        options: arguments that only the launcher takes.
    """

    op: str
    label: str
    make: Callable[[torch.Generator], dict[str, Any]]
    stored: tuple[str, ...]
    tolerance: dict[str, float] = field(default_factory=dict)
    large: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}-{self.label}"

    @property
    def half(self) -> bool:
        """Whether it has anything to store in half precision."""
        return bool(self.stored)

    def allowed(self, dtype: torch.dtype) -> float:
        """Half precisions round the result, the weights and some operands."""
        usual = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
        name = str(dtype).removeprefix("torch.")
        return {**usual, **self.tolerance}[name]

    def arguments(self, dtype: torch.dtype, device: str = "cpu") -> dict[str, Any]:
        """Make the arguments; always the same ones for a dtype."""
        made = self.make(torch.Generator().manual_seed(len(self.op) * 1000 + len(self.label)))

        def place(name: str, value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                kind = dtype if name in self.stored else torch.float32
                # Not `to`, which packs a view.
                options = {"dtype": kind, "device": device}
                return torch.empty_strided(value.shape, value.stride(), **options).copy_(value)
            if isinstance(value, list):
                return [place(name, item) for item in value]
            return value

        return {name: place(name, value) for name, value in made.items()}

    def error(self, kernels: ModuleType, dtype: torch.dtype, device: str = "cpu") -> float:
        """Largest error as a fraction of the largest expected value."""
        arguments = self.arguments(dtype, device)
        got = _list(getattr(kernels, self.op)(**arguments, **self.options))
        want = _list(getattr(kernels, f"{self.op}_reference")(**widened(arguments)))
        assert len(got) == len(want)
        worst = 0.0
        for result, expected in zip(got, want, strict=True):
            assert result.shape == expected.shape, (result.shape, expected.shape)
            assert torch.equal(result.isnan().cpu(), expected.isnan().cpu()), "NaN elsewhere"
            result, expected = result.nan_to_num().double().cpu(), expected.nan_to_num().cpu()
            largest = max(expected.abs().max().item(), 1e-30)
            worst = max(worst, (result - expected).abs().max().item() / largest)
        return worst


def _list(results: Any) -> list[torch.Tensor]:
    return list(results) if isinstance(results, (tuple, list)) else [results]


def widened(value: Any) -> Any:
    """Turn all tensors in lists and dicts into float64."""
    if isinstance(value, torch.Tensor):
        return value.double()
    if isinstance(value, list):
        return [widened(item) for item in value]
    if isinstance(value, dict):
        return {name: widened(item) for name, item in value.items()}
    return value


def randn(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def attention(label, batch, queries, keys, heads, dim, value_dim=None, shared=False, **more):
    def make(g):
        return {
            "q": randn(g, 1 if shared else batch, queries, heads * dim),
            "k": randn(g, batch, keys, heads * dim),
            "v": randn(g, batch, keys, heads * (value_dim or dim)),
            "heads": heads,
            "scale": dim**-0.5,
        }

    return Case("attention", label, make, ("q", "k", "v"), **more)


def merged_attention(label, batch, tokens, heads, dim, **more):
    """q, k and v side by side, as one product leaves them: rows three times as far apart."""

    def make(g):
        q, k, v = randn(g, batch, tokens, 3 * heads * dim).chunk(3, dim=2)
        return {"q": q, "k": k, "v": v, "heads": heads, "scale": dim**-0.5}

    return Case("attention", label, make, ("q", "k", "v"), **more)


def halo(label, batch, size, block, margin, heads, dim, value_dim=None, legacy=False, **more):
    def make(g):
        height, width = size
        table = 2 * (block + 2 * margin) - 1
        return {
            "q": randn(g, batch, height, width, heads * dim),
            "k": randn(g, batch, height, width, heads * dim),
            "v": randn(g, batch, height, width, heads * (value_dim or dim)),
            "rows": randn(g, table, dim),
            "columns": randn(g, table, dim),
            "block": block,
            "halo": margin,
            "heads": heads,
            "scale": dim**-0.5,
            "legacy_mask": legacy,
        }

    return Case("halo_attention", label, make, ("q", "k", "v"), **more)


def merged_halo(label, size, block, margin, heads, dim, **more):
    """q, k and v side by side, as one convolution leaves them."""

    def make(g):
        q, k, v = randn(g, 1, *size, 3 * heads * dim).chunk(3, dim=3)
        table = 2 * (block + 2 * margin) - 1
        tables = {"rows": randn(g, table, dim), "columns": randn(g, table, dim)}
        sizes = {"block": block, "halo": margin, "heads": heads, "scale": dim**-0.5}
        return {"q": q, "k": k, "v": v, **tables, **sizes}

    return Case("halo_attention", label, make, ("q", "k", "v"), **more)


def convolution(label, batch, size, channels, window=(3, 3), residual=False, **more):
    width = more.pop("out_channels", channels)
    options = {name: more.pop(name) for name in ("tile", "splits") if name in more}
    apart = {name: more.pop(name) for name in ("tolerance", "large") if name in more}

    def make(g):
        x, weight = randn(g, batch, *size, channels), randn(g, width, *window, channels)
        made = {"x": x, "weight": weight / weight[0].numel() ** 0.5, "bias": randn(g, width)} | more
        if residual:
            at = convolution_size(size, window, **more)
            made["residual"] = randn(g, batch, *at, width)
        return made

    return Case("conv2d", label, make, ("x", "weight", "residual"), **apart, options=options)


def convolution_size(size, window, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), **_):
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
    return [(size[i] + padding[i] + padding[i + 2] - reach[i]) // stride[i] + 1 for i in range(2)]


def tokens(label, batch, pixels, channels, groups, steep=1.0, **more):
    def make(g):
        # Growing pixels: the running maximum must rise from tile to tile.
        x = randn(g, batch, pixels, channels) * torch.linspace(0.2, 1, pixels)[:, None]
        weight = randn(g, groups, channels)
        return {"x": x, "weight": weight, "scale": steep * channels**-0.5}

    return Case("token_attention", label, make, ("x",), **more)


def projector(op, label, batch, pixels, channels, count, bias, **more):
    def make(g):
        return {
            "x": randn(g, batch, pixels, channels),
            "residual": randn(g, batch, pixels, channels),
            "key": randn(g, batch, count, channels),
            "value": randn(g, batch, count, channels),
            "scale": channels**-0.5,
            "key_bias": randn(g, batch, count) if bias else None,
        }

    return Case(op, label, make, ("x", "residual"), **more)


def scores(label, batch, pixels, channels, near=None, **more):
    def make(g):
        a, b = randn(g, batch, pixels, channels), randn(g, batch, pixels, channels)
        return {"a": a, "b": b if near is None else a + near * b}

    return Case("score_map", label, make, ("a", "b"), **more)


def fused(mode, batch=2, sizes=((9, 7), (5, 4), (3, 1)), size=(17, 19), label="", **more):
    def make(g):
        return {
            "maps": [randn(g, batch, *side).abs() for side in sizes],
            "mses": [randn(g, batch).abs() for _ in sizes],
            "coses": [randn(g, batch).abs() for _ in sizes],
            "alpha_scale": randn(g, 3).abs(),
            "mode": mode,
            "size": size,
        }

    return Case("fuse_maps", f"mode{mode}{label}", make, (), **more)


def blur(label, batch, size, radius, **more):
    def make(g):
        # Lopsided, so that a mirrored kernel would show.
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / max(1, radius / 3)) ** 2)
        kernel = kernel.double() * torch.linspace(0.5, 1.5, 2 * radius + 1)
        return {"x": randn(g, batch, *size), "kernel": kernel / kernel.sum()}

    return Case("gaussian_blur", label, make, (), **more)


def norm(label, rows, width, residual, mean=0.0, **more):
    def make(g):
        return {
            "x": randn(g, rows, width) + mean,
            "gamma": randn(g, width),
            "beta": randn(g, width),
            "residual": randn(g, rows, width) if residual else None,
        }

    return Case("layer_norm", label, make, ("x", "residual"), **more)


def gms(label, batch, size, channels=3, near=None, **more):
    def make(g):
        a = torch.rand(batch, *size, channels, generator=g, dtype=torch.float64)
        b = torch.rand(batch, *size, channels, generator=g, dtype=torch.float64)
        return {"a": a, "b": b if near is None else a + near * b, "c": 0.0026}

    return Case("gms_map", label, make, ("a", "b"), **more)


def with_nan(case: Case, name: str, *index: int) -> Case:
    def make(g):
        made = case.make(g)
        made[name][index] = math.nan
        return made

    return Case(case.op, f"{case.label} nan", make, case.stored, case.tolerance)


# With a half precision's rounding of the sum that is not written, a and b of the fused score stay
# apart by what the weights and values are rounded by.
_fused_half = {"float16": 4e-3, "bfloat16": 3e-2}
# Weights that differ by e^40: what logits are rounded by shows in them.
_steep = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 0.3}
# Differences of 1e-3 of values around 1: in float32 they have 4 digits less.
_near = {"float32": 5e-4}

CASES = [
    attention("one", 1, 1, 1, 1, 1),
    attention("tail of keys", 2, 5, 65, 3, 32),
    attention("whole tiles", 1, 64, 128, 1, 64),
    attention("odd width", 1, 67, 49, 2, 24, 40),
    attention("wide", 1, 9, 33, 1, 200),
    attention("alike for all images", 3, 17, 19, 2, 16, shared=True),
    merged_attention("side by side", 2, 37, 2, 32),
    with_nan(attention("key", 1, 3, 70, 2, 16), "k", 0, 69, 3),
    attention("vit", 8, 197, 197, 12, 64, large=True),
    attention("long", 1, 4097, 4099, 4, 64, large=True),
    attention("windows", 64, 49, 49, 8, 32, large=True),
    convolution("one", 1, (1, 1), 1, (1, 1)),
    convolution("odd", 2, (5, 7), 19, padding=(1, 1, 1, 1), out_channels=33),
    convolution("pixels", 1, (9, 5), 80, (1, 1), residual=True, activation="relu"),
    convolution(
        "lopsided",
        1,
        (9, 11),
        16,
        (2, 5),
        stride=(2, 1),
        padding=(1, 0, 2, 3),
        dilation=(3, 2),
        out_channels=48,
    ),
    convolution("shared depth", 1, (6, 5), 96, splits=4, residual=True, activation="silu"),
    convolution("more shares than steps", 1, (4, 3), 32, (1, 1), splits=3, activation="gelu"),
    convolution("sigmoid", 1, (3, 3), 16, (1, 1), activation="sigmoid"),
    with_nan(convolution("pixel", 1, (6, 6), 16, activation="relu"), "x", 0, 2, 3, 5),
    convolution("wide tile", 1, (12, 12), 64, tile=(128, 128, 64, 8, 3)),
    convolution("resnet", 2, (56, 56), 64, residual=True, padding=(1,) * 4, large=True),
    convolution("resnet deep", 1, (14, 14), 512, padding=(1,) * 4, splits=4, large=True),
    halo("tiny", 1, (2, 2), 2, 1, 1, 4),
    halo("no halo", 1, (6, 3), 3, 0, 2, 5, 7),
    halo("odd", 2, (6, 9), 3, 1, 2, 5, 3),
    halo("wide halo", 1, (4, 8), 2, 5, 1, 16),
    halo("large window", 1, (18, 18), 18, 1, 1, 8),
    halo("paper", 1, (24, 24), 12, 2, 2, 16),
    merged_halo("side by side", (3, 6), 3, 1, 2, 5),
    halo("legacy inside", 1, (9, 9), 3, 1, 2, 5, legacy=True),
    halo("legacy no halo", 1, (4, 6), 2, 0, 1, 4, legacy=True),
    halo("legacy alone", 1, (4, 4), 4, 1, 1, 16, legacy=True),
    with_nan(halo("value", 1, (6, 6), 3, 1, 1, 4, legacy=True), "v", 0, 2, 2, 1),
    with_nan(halo("key", 1, (6, 9), 3, 1, 2, 5), "k", 0, 5, 8, 3),
    halo("haloae", 4, (60, 60), 12, 2, 8, 16, large=True),
    halo("haloae legacy", 4, (60, 60), 12, 2, 8, 16, legacy=True, large=True),
    tokens("one", 1, 1, 1, 1),
    tokens("odd", 2, 131, 67, 3),
    tokens("several spans", 1, 1023, 96, 8),
    tokens("many groups", 1, 67, 32, 33),
    tokens("steep", 1, 300, 64, 8, 40.0, tolerance=_steep),
    with_nan(tokens("pixel", 1, 300, 33, 2), "x", 0, 299, 32),
    tokens("gtrans", 2, 3136, 256, 8, large=True, tolerance={"bfloat16": 3e-2}),
    tokens("gtrans deep", 2, 196, 1024, 8, large=True, tolerance={"bfloat16": 3e-2}),
    projector("projector_attention", "one", 1, 1, 1, 1, False),
    projector("projector_attention", "odd", 2, 67, 67, 5, False),
    projector("projector_attention", "bias", 2, 33, 130, 8, True),
    projector("projector_attention", "many tokens", 1, 35, 40, 49, True),
    projector("projector_attention", "gtrans", 2, 784, 512, 8, False, large=True),
    # One pixel asks for one token: its cosine distance is the rounding of all others.
    projector(
        "projector_score_map", "one", 1, 1, 3, 1, False, tolerance=_fused_half | {"float32": 3e-5}
    ),
    projector("projector_score_map", "odd", 2, 67, 67, 5, False, tolerance=_fused_half),
    projector("projector_score_map", "bias", 1, 133, 65, 8, True, tolerance=_fused_half),
    projector(
        "projector_score_map", "gtrans", 2, 3136, 256, 8, False, large=True, tolerance=_fused_half
    ),
    scores("one", 1, 1, 1),
    scores("odd", 2, 131, 67),
    scores("wide", 1, 33, 300),
    scores("nearly equal", 2, 131, 64, 1e-3, tolerance=_near),
    scores("many pixels", 1, 1023, 8),
    with_nan(scores("pixel", 1, 37, 20), "a", 0, 5, 19),
    scores("gtrans", 2, 3136, 256, large=True),
    scores("gtrans near", 1, 3136, 256, 1e-3, large=True, tolerance=_near),
    *(fused(mode) for mode in range(1, 7)),
    fused(6, 1, ((1, 1), (1, 1), (1, 1)), (1, 1), " one"),
    fused(6, 3, ((56, 56), (28, 28), (14, 14)), (224, 224), " gtrans", large=True),
    blur("one", 1, (1, 1), 0),
    blur("mirrored", 2, (9, 7), 6),
    blur("odd", 1, (33, 31), 3),
    blur("gtrans", 2, (224, 224), 16, large=True),
    norm("one", 1, 1, False),
    norm("odd", 5, 67, True),
    norm("tails", 7, 255, False),
    norm("wide", 2, 1025, True),
    # A mean of a thousand deviations, whose square has no digits left for the deviations.
    norm("far from zero", 3, 100, False, 1000.0, tolerance={"float32": 5e-4}),
    norm("vit", 1576, 768, True, large=True),
    gms("one", 1, (1, 1)),
    gms("odd", 2, (17, 19)),
    gms("channels", 1, (5, 64), 1),
    gms("nearly equal", 1, (16, 21), 3, 1e-3, tolerance={"float32": 5e-3, "float16": 5e-3}),
    gms("intra", 2, (256, 256), 3, large=True),
]
