"""The Triton kernels on a CUDA device: compiled when called, and as kept for the C++ engine.

Needs pytest, torch, Triton and numpy; of adfast only this checkout, installed or not:

    python -m pytest tests/gpu/test_triton.py

Errors are measured against the references in float64 on the same device, as
tests/triton_kernels/triton_cases.py says. The first run compiles for some minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("triton.language", reason="Triton is not installed")
if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no CUDA device", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "triton_kernels"))

from kept_ptx import Kept, calls, manifest  # noqa: E402
from triton_cases import CASES, load_kernels, load_ops, widened  # noqa: E402

kernels = load_kernels()
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
RUNS = [(case, dtype) for case in CASES for dtype in (DTYPES if case.half else DTYPES[:1])]
CAPABILITY = 10 * torch.cuda.get_device_capability()[0] + torch.cuda.get_device_capability()[1]


def name(run) -> str:
    return f"{run[0]}-{str(run[1]).removeprefix('torch.')}"


@pytest.fixture(autouse=True)
def wait():
    """Let a kernel's failure be its own test's."""
    yield
    torch.cuda.synchronize()


@pytest.mark.parametrize("run", RUNS, ids=name)
def test_kernel(run):
    case, dtype = run
    assert case.error(kernels, dtype, "cuda") <= case.allowed(dtype)


@pytest.mark.parametrize("run", [run for run in RUNS if run[0].large], ids=name)
def test_a_kernel_gives_the_same_bits_twice(run):
    case, dtype = run
    arguments = case.arguments(dtype, "cuda")
    first, again = (getattr(kernels, case.op)(**arguments) for _ in range(2))
    if isinstance(first, torch.Tensor):
        first, again = (first,), (again,)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_kernels_are_recorded_in_a_graph():
    """Nothing in a launcher waits for the device or copies from it."""
    case = next(c for c in CASES if str(c) == "halo_attention-paper")
    arguments = case.arguments(torch.float16, "cuda")
    want = kernels.halo_attention(**arguments)  # compiled here, outside the graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = kernels.halo_attention(**arguments)
    got.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(got, want)


@pytest.fixture(scope="module")
def kept():
    if str(CAPABILITY) not in manifest()["variants"][0]["targets"]:
        pytest.skip(f"no PTX is kept for compute capability {CAPABILITY / 10}")
    return Kept(CAPABILITY)


@pytest.mark.parametrize("call", calls(), ids=name)
def test_kept_ptx(call, kept):
    """Launched through CUDA's driver by what the manifest says, as the engine does."""
    case, dtype, more = call
    arguments = case.arguments(dtype, "cuda")
    with kept.in_place():
        got = getattr(kernels, case.op)(**arguments, **more)
    got = got if isinstance(got, tuple) else (got,)
    want = getattr(kernels, f"{case.op}_reference")(**widened(arguments))
    want = want if isinstance(want, tuple) else (want,)
    for result, expected in zip(got, want, strict=True):
        error = (result.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
        assert error.item() <= case.allowed(dtype)


def test_every_kept_variant_was_launched(kept):
    """By the tests before this one; run the whole file."""
    names = {variant["name"] for variant in manifest()["variants"]}
    if not kept.launched:
        pytest.skip("test_kept_ptx was not run")
    assert kept.launched == names


def test_ops_choose_the_kernels_and_learn():
    """Gradients behind a kernel are the reference's."""
    ops = load_ops()
    case = next(c for c in CASES if str(c) == "halo_attention-odd")
    arguments = case.arguments(torch.float32, "cuda")
    for key in ("q", "k", "v"):
        arguments[key] = arguments[key].permute(0, 3, 1, 2).contiguous()
    tensors = {key: value for key, value in arguments.items() if isinstance(value, torch.Tensor)}
    options = {key: value for key, value in arguments.items() if key not in tensors}
    gradients = []
    for dtype in (torch.float32, torch.float64):  # float64 goes to the reference
        leaves = {key: t.detach().to(dtype).requires_grad_() for key, t in tensors.items()}
        result = ops.halo_attention(**leaves, **options)
        behind_kernel = "_Recomputed" in type(result.grad_fn.next_functions[0][0]).__name__
        assert behind_kernel == (dtype == torch.float32)
        weights = torch.linspace(0, 1, result.numel(), device="cuda").view(result.shape)
        (result.double() * weights).sum().backward()
        gradients.append([leaf.grad.double() for leaf in leaves.values()])
    for got, want in zip(*gradients, strict=True):
        assert ((got - want).abs().max() / want.abs().max()).item() < 1e-4


def test_sizes_beyond_a_kernel_go_to_the_reference():
    ops = load_ops()
    x = torch.randn(1, 5, 300, device="cuda")
    with pytest.raises(kernels.TooLarge, match=r"\[attention\] a head has 300 channels"):
        kernels.attention(x, x, x, 1, 0.1)
    got = ops.attention(x, x, x, 1, 0.1)
    assert torch.allclose(got, kernels.attention_reference(x, x, x, 1, 0.1))
