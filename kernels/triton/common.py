"""What the families share: Triton if it is there, checks at the door, variants, loads."""

import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl

    AVAILABLE = True
except ImportError:
    # The references must work all the same; a kernel's body is read at its first launch.
    triton = SimpleNamespace(jit=lambda function: function)
    tl = SimpleNamespace(constexpr=None)
    AVAILABLE = False

INTERPRETED = AVAILABLE and os.environ.get("TRITON_INTERPRET", "0") == "1"
LOG2_E = 1.4426950408889634
# Triton's names of the dtypes that the kernels read and write.
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class TooLarge(ValueError):
    """Sizes beyond what a kernel holds; the reference has no such limit."""


@dataclass(frozen=True)
class Variant:
    """A kernel with all that must be known when it is compiled ahead of time.

    Attributes:
        name: unique; what the C++ side asks for.
        kernel: the jitted function.
        types: Triton's type of each argument that is passed at a launch; pointers begin with "*".
        constexprs: the others. An argument that is None, such as an absent bias, is one of them.
        aligned: arguments that every launch must keep to multiples of 16 (pointers: of 16 bytes).
        num_warps: 32 threads each.
        num_stages: depth of the software pipeline.
        grid: how many programs to launch along x, y and z, in the names of the arguments.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constexprs: dict[str, Any]
    aligned: tuple[str, ...]
    grid: tuple[str, str, str]
    num_warps: int = 4
    num_stages: int = 2
    notes: str = field(default="", compare=False)


def padded(size: int, least: int = 16) -> int:
    """Return the power of two that holds `size`; 16 is the least side of a tile in `tl.dot`."""
    return max(least, 1 << (size - 1).bit_length())


def cdiv(a: int, b: int) -> int:
    """Divide, rounding up."""
    return -(-a // b)


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Dtype a reference computes in: float32 for half precisions, float64 where an input is."""
    wide = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def check_shape(op: str, name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Refuse a tensor whose shape is another; None stands for any size from 1."""
    shape = tuple(tensor.shape)
    fits = len(shape) == len(expected) and all(
        got >= 1 if want is None else got == want for got, want in zip(shape, expected, strict=True)
    )
    if not fits:
        words = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"[{op}] {name} has shape {list(shape)}, expected [{words}]")


def check_positive(op: str, name: str, value: float) -> None:
    """Refuse what is not above zero, NaN included."""
    if not value > 0:
        raise ValueError(f"[{op}] {name} is {value}, expected a positive number")


def check_launch(op: str, like: Tensor, **others: Tensor | None) -> None:
    """Refuse what a kernel cannot read.

    Args:
        op: its name.
        like: float32, float16 or bfloat16, on the device it runs on.
        others: tensors by name, of like's device and of any of these dtypes.
    """
    if not AVAILABLE:
        raise ImportError(f"[{op}] Triton is not installed; install it with: pip install triton")
    for name, tensor in {"the first input": like, **others}.items():
        if tensor is None:
            continue
        if tensor.dtype not in TYPES:
            wanted = ", ".join(str(dtype) for dtype in TYPES)
            raise TypeError(f"[{op}] {name} is {tensor.dtype}, expected one of {wanted}")
        if not (tensor.is_cuda or INTERPRETED):
            raise ValueError(
                f"[{op}] {name} is on {tensor.device}, expected a CUDA device; for other devices "
                f"there is {op}_reference"
            )
        if INTERPRETED and not tensor.is_cuda and tensor.dtype == torch.bfloat16:
            raise TypeError(
                f"[{op}] {name} is bfloat16, which Triton's interpreter computes wrongly; use "
                "float32 or float16"
            )
        if tensor.device != like.device:
            raise ValueError(
                f"[{op}] {name} is on {tensor.device}, expected {like.device} as the first input"
            )
        # Offsets within an image are 32-bit; of a view, steps count, not elements.
        sizes = zip(tensor.shape, tensor.stride(), strict=True)
        extent = max(tensor.numel(), sum((size - 1) * step for size, step in sizes) + 1)
        if extent >= 2**31:
            raise TooLarge(
                f"[{op}] {name} spans {extent} elements, expected fewer than 2**31; split the batch"
            )


def check_alike(op: str, like: Tensor, **others: Tensor | None) -> None:
    """Refuse tensors of another dtype than like's."""
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype != like.dtype:
            raise TypeError(f"[{op}] {name} is {tensor.dtype}, expected {like.dtype} as the others")


def rows_of(tensor: Tensor) -> Tensor:
    """Give the tensor, copied if its last axis is strided or the axes between do not lie packed.

    Of [batch, ..., channels] only the steps from batch to batch and from row to row are passed on.
    """
    step = tensor.stride(-2)
    packed = tensor.stride(-1) == 1 or tensor.shape[-1] == 1
    for axis in range(tensor.dim() - 2, 0, -1):
        packed &= tensor.stride(axis) == step or tensor.shape[axis] == 1
        step *= tensor.shape[axis]
    return tensor if packed else tensor.contiguous()


def row_step(tensor: Tensor) -> int:
    """Elements from one row, or pixel, of `rows_of` to the next."""
    # Of a size of 1 a stride says nothing, and a pixel's step hides where there is one column.
    for axis in range(tensor.dim() - 2, 0, -1):
        if tensor.shape[axis] > 1:
            return tensor.stride(axis)
    return tensor.shape[-1]


def launch(op: str, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Start a kernel on the device of its first argument."""
    if max(grid[1:], default=0) > 65535:
        raise TooLarge(
            f"[{op}] would launch {grid[1:]} programs beside each other, of which CUDA takes 65535 "
            "along an axis; split the batch"
        )
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **options)


@triton.jit
def load_rows(
    pointer,
    step,
    count,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """[ROWS, PADDED]: rows that lie `step` apart, zeros beyond `count` rows and WIDTH columns."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, PADDED)[None, :]
    at = pointer + row * step + column
    if MASKED:
        return tl.load(at, mask=(row < count) & (column < WIDTH), other=0.0)
    elif PADDED > WIDTH:
        return tl.load(at, mask=(row >= 0) & (column < WIDTH), other=0.0)
    else:
        return tl.load(at)
