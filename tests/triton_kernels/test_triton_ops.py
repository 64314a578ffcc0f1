"""The kernels' references and `adfast.ops` against the models' own functions; their errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adfast import ops
from adfast.models import layers

kernels = ops.kernels
HERE = Path(__file__).parent


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def near(got, want, tolerance=1e-12):
    got = got if isinstance(got, tuple) else (got,)
    want = want if isinstance(want, tuple) else (want,)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        torch.testing.assert_close(g.double(), w.double(), rtol=tolerance, atol=tolerance)


# `layers` computes logits and statistics in float32 whatever the inputs' dtype.
SINGLE = 2e-6


@pytest.mark.parametrize("legacy_mask", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_halo_attention(legacy_mask, layout):
    q, k = (randn(2, 10, 9, 6, seed=i).to(memory_format=layout) for i in (1, 2))
    v, rows, columns = randn(2, 6, 9, 6, seed=3), randn(9, 5, seed=4), randn(9, 5, seed=5)
    arguments = (q, k, v, rows, columns, 3, 1, 2, 0.4, legacy_mask)
    got = ops.halo_attention(*arguments)
    near(got, layers.halo_attention(*arguments), SINGLE)


def test_attention():
    q, k, v = randn(2, 5, 12), randn(2, 7, 12, seed=1), randn(2, 7, 6, seed=2)
    near(ops.attention(q, k, v, 3, 0.5), layers.attention(q, k, v, 3, 0.5), SINGLE)
    near(ops.attention(q[:1], k, v, 3, 0.5), layers.attention(q[:1], k, v, 3, 0.5), SINGLE)


def test_token_attention():
    x, weight, bias = randn(2, 6, 5, 3), randn(4, 6, seed=1), randn(4, seed=2)
    want = layers.token_attention(x, weight, bias, 0.7)
    near(ops.token_attention(x, weight, bias, 0.7), want, SINGLE)
    near(ops.token_attention(x, weight, None, 0.7), want, SINGLE)


def test_projector_attention_folds_the_query():
    agn, trans = randn(2, 6, 5, 3), randn(2, 6, 5, 3, seed=1)
    weight, bias = randn(4, 6, seed=2), randn(4, seed=3)
    key, value = randn(2, 5, 4, seed=4), randn(2, 5, 6, seed=5)
    want = layers.projector_attention(agn, trans, weight, bias, key, value, 0.7)
    folded = (agn, trans, key @ weight, value, 0.7, key @ bias)
    near(ops.projector_attention(*folded), want, SINGLE)
    near(ops.projector_score_map(*folded), ops.score_map(agn, want), 1e-5)


def test_score_map():
    a, b = randn(2, 6, 5, 3), randn(2, 6, 5, 3, seed=1)
    near(ops.score_map(a, b), layers.score_map(a, b), 1e-5)


def test_score_map_keeps_its_digits():
    a = randn(1, 64, 30, 30, dtype=torch.float32)
    b = a + 1e-4 * randn(1, 64, 30, 30, dtype=torch.float32, seed=1)
    exact = 1 - torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), 0)
    near(ops.score_map(a, b)[2], exact.reshape(1), 1e-4 * exact.item())
    zeros = torch.zeros(1, 4, 3, 3)
    assert [t.max().item() for t in ops.score_map(zeros, zeros)] == [0, 0, 1]


@pytest.mark.parametrize("mode", range(1, 7))
def test_fuse_maps(mode):
    maps = [randn(2, 1, *size, seed=size[0]).abs() for size in ((9, 7), (5, 4), (3, 1))]
    mses, coses = ([randn(2, seed=s + i).abs() for i in range(3)] for s in (10, 20))
    mses[1][0] = coses[1][0] = 0  # equal features: a layer without any difference weighs nothing
    arguments = (maps, mses, coses, randn(3, seed=30).abs(), mode, (11, 13))
    near(ops.fuse_maps(*arguments), layers.fuse_maps(*arguments))


def test_maps():
    x, kernel = randn(2, 1, 9, 7), randn(7, seed=1)
    near(ops.gaussian_blur(x, kernel), layers.gaussian_blur(x, kernel))
    a, b = (torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    near(ops.gms_map(a, b, 0.0026), layers.gms_map(a, b, 0.0026), 1e-6)
    assert ops.gms_map(a, a, 0.0026).abs().max() == 0


def test_layer_norm():
    x, gamma, beta, residual = randn(2, 3, 7), randn(7), randn(7, seed=1), randn(2, 3, 7, seed=2)
    want = torch.nn.functional.layer_norm(x, (7,), gamma, beta, 1e-5)
    near(ops.layer_norm(x, gamma, beta), want)
    near(ops.layer_norm(x, gamma, beta, residual), want + residual)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype(dtype):
    x, weight = randn(1, 16, 5, 5, dtype=dtype), randn(2, 16, dtype=torch.float32)
    assert ops.token_attention(x, weight, None, 0.25).dtype == dtype
    assert ops.attention(x[:, :, 0], x[:, :, 0], x[:, :, 0], 1, 1.0).dtype == dtype
    assert {t.dtype for t in ops.score_map(x, x)} == {torch.float32, dtype} - {dtype}
    assert ops.gms_map(x, x, 0.1).dtype == torch.float32


def call(op: str, **changes):
    """Call an op with arguments that fit but for the changes."""
    x = torch.zeros(1, 4, 6, 6)
    fitting = {
        "attention": {"q": x[0], "k": x[0], "v": x[0], "heads": 2, "scale": 1.0},
        "halo_attention": {"q": x, "k": x, "v": x, "rows": torch.zeros(9, 2)}
        | {"columns": torch.zeros(9, 2), "block": 3, "halo": 1, "heads": 2, "scale": 1.0},
        "token_attention": {"x": x, "weight": torch.zeros(2, 4), "bias": None, "scale": 1.0},
        "score_map": {"a": x, "b": x},
        "gaussian_blur": {"x": x[:, :1], "kernel": torch.zeros(3)},
        "layer_norm": {"x": x, "gamma": torch.zeros(6), "beta": torch.zeros(6)},
        "gms_map": {"a": x, "b": x, "c": 0.1},
        "fuse_maps": {"maps": [x[:, :1]] * 3, "mses": [torch.zeros(1)] * 3}
        | {"coses": [torch.zeros(1)] * 3, "alpha_scale": torch.zeros(3), "mode": 1}
        | {"size": (3, 3)},
    }
    return getattr(ops, op)(**{**fitting[op], **changes})


@pytest.mark.parametrize(
    ("op", "changes", "words"),
    [
        ("attention", {"heads": 5}, r"heads is 5, expected a divisor of the widths 6 of q and k"),
        ("attention", {"scale": 0.0}, r"scale is 0.0, expected a positive number"),
        ("attention", {"k": torch.zeros(4, 3, 6)}, r"k has shape \[4, 3, 6\], expected \[4, 6, "),
        ("halo_attention", {"block": 4}, r"the map is 6x6, expected sides divisible by "),
        ("halo_attention", {"rows": torch.zeros(8, 2)}, r"rows has shape \[8, 2\], expected \[9"),
        ("halo_attention", {"halo": -1}, r"halo -1, expected a block of at least 1"),
        ("halo_attention", {"q": torch.zeros(6, 6, 4)}, r"q has shape .*, expected \[B, C, H, W\]"),
        ("token_attention", {"weight": torch.zeros(2, 5)}, r"weight has shape \[2, 5\], expected"),
        ("score_map", {"b": torch.zeros(1, 4, 6, 5)}, r"b has shape \[1, 30, 4\], expected \[1, 3"),
        ("gaussian_blur", {"kernel": torch.zeros(4)}, r"kernel has 4 taps, expected an odd number"),
        ("gaussian_blur", {"kernel": torch.zeros(13)}, r"below the smaller side of the map, 6"),
        ("gaussian_blur", {"x": torch.zeros(1, 2, 6, 6)}, r"expected \[B, 1, H, W\]"),
        ("layer_norm", {"gamma": torch.zeros(5)}, r"gamma has shape \[5\], expected \[6\]"),
        ("gms_map", {"c": float("nan")}, r"c is nan, expected a positive number"),
        ("fuse_maps", {"mode": 7}, r"mode is 7, expected 1..6"),
        ("fuse_maps", {"size": (0, 3)}, r"size is \(0, 3\), expected positive numbers"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(op, changes, words):
    call(op)
    with pytest.raises(ValueError, match=rf"\[{op}\] .*{words}"):
        call(op, **changes)


def test_dtypes_must_agree():
    with pytest.raises(TypeError, match=r"\[gms_map\] b is torch.float16, expected torch.float32"):
        call("gms_map", b=torch.zeros(1, 4, 6, 6, dtype=torch.float16))


@pytest.mark.skipif(not kernels.AVAILABLE, reason="Triton is not installed")
def test_a_kernel_refuses_tensors_of_the_cpu():
    x = torch.zeros(1, 4, 4)
    words = r"\[attention\] .* is on cpu, expected a CUDA device; .*attention_reference"
    with pytest.raises(ValueError, match=words):
        kernels.attention(x, x, x, 1, 1.0)


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # importing it raises ImportError
import torch
from adfast import ops
assert not ops.kernels.AVAILABLE
x = torch.ones(1, 2, 4)
assert ops.attention(x, x, x, 2, 1.0).equal(x)
try:
    ops.kernels.attention(x, x, x, 2, 1.0)
except ImportError as error:
    assert "pip install triton" in str(error), error
else:
    raise AssertionError("a kernel ran without Triton")
"""

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["triton"] = None
import adfast
assert "adfast.ops" not in sys.modules and "adfast.triton" not in sys.modules
"""


@pytest.mark.parametrize("script", [WITHOUT_TRITON, WITHOUT_TORCH], ids=["no triton", "no torch"])
def test_what_is_absent_is_not_needed(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
