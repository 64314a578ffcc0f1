"""Gradients of `adfast.ops` behind interpreted kernels; prints the ops whose gradients hold.

A process of its own, see run_interpreted.py.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
from triton_cases import CASES, load_kernels  # noqa: E402

LABELS = {"attention": "odd width", "fuse_maps": "mode6", "projector_attention": "bias"}


def leaves(arguments: dict, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
    """Flatten the tensors among the arguments as `adfast.ops` does; each asks for a gradient."""
    found = {}
    for name, value in arguments.items():
        for i, item in enumerate(value if isinstance(value, list) else [value]):
            key = f"{name}.{i}" if isinstance(value, list) else name
            if isinstance(item, torch.Tensor):
                found[key] = item.detach().to(dtype).requires_grad_()
            elif item is None:
                found[key] = None
    return found


def main() -> None:
    kernels = load_kernels()  # before adfast.ops, which takes what is there
    from adfast import ops

    assert ops.kernels is kernels and kernels.INTERPRETED
    torch.set_num_threads(1)
    for op in ops.__all__:
        case = next(c for c in CASES if c.op == op and c.label == LABELS.get(op, "odd"))
        arguments = case.arguments(torch.float32)
        tensors, exact = leaves(arguments, torch.float32), leaves(arguments, torch.float64)
        flat = {name.partition(".")[0] for name in tensors}
        options = {name: value for name, value in arguments.items() if name not in flat}
        results = ops._Recomputed.apply(op, tuple(tensors), options, *tensors.values())
        expected = ops._call(getattr(kernels, f"{op}_reference"), exact, options)
        results = results if isinstance(results, tuple) else (results,)
        expected = expected if isinstance(expected, tuple) else (expected,)
        # Some weight per element, so that no gradient is zero by symmetry.
        weights = [torch.rand_like(e) for e in expected]
        sum((r.double() * w).sum() for r, w in zip(results, weights, strict=True)).backward()
        sum((e * w).sum() for e, w in zip(expected, weights, strict=True)).backward()
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            got, want = tensor.grad.double(), exact[name].grad
            largest = want.abs().max().item()
            assert largest > 0, f"{op} {name}: no gradient"
            error = (got - want).abs().max().item() / largest
            assert error < 1e-4, f"{op} {name}: {error}"
        print(op, flush=True)


if __name__ == "__main__":
    main()
