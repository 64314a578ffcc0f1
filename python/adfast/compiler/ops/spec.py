"""The table itself, what its entries are made of, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adfast.errors import CompileError

if TYPE_CHECKING:
    from adfast.compiler.graph import Value

Shape = tuple[int, ...]
REQUIRED = object()
ARITHMETIC = ("add", "sub", "mul", "div", "max", "min")


@dataclass(frozen=True)
class Input:
    """One operand; `constant` ones are known when the plan is built, an `index` is one of int32."""

    name: str
    constant: bool = False
    optional: bool = False
    index: bool = False


@dataclass(frozen=True)
class Attr:
    """`type` is i, f or s, or i[n], f[n], i[]: a list of n, or of any length."""

    type: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class Op:
    """An entry of the table; `infer` checks the operands and returns the shapes of the outputs."""

    name: str
    inputs: tuple[Input, ...]
    attrs: Mapping[str, Attr]
    infer: Callable[[list[Value | None], Mapping[str, Any]], list[Shape]]
    variadic: bool = False
    engine: bool = True
    mixed: bool = False  # any operand may be a constant or an activation


table: dict[str, Op] = {}


def complete_attrs(op: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all attributes of `op`: `given` converted to the table's types, defaults filled in.

    Raises:
        CompileError: unknown op or attribute, a missing one, or a wrong type or length.
    """
    spec = _op(op).attrs
    unknown = sorted(set(given) - set(spec))
    if unknown:
        raise CompileError(f"{op} has no attribute {unknown[0]!r}; it has {sorted(spec) or 'none'}")
    return {
        name: _convert(op, name, attr, given.get(name, attr.default)) for name, attr in spec.items()
    }


def non_default_attrs(op: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes worth printing."""
    spec = _op(op).attrs
    return {name: value for name, value in attrs.items() if spec[name].default != value}


def input_count(op: str) -> int:
    """Count the operands of `op`, absent ones too; 0 for ops that take any number."""
    return 0 if _op(op).variadic else len(_op(op).inputs)


def infer(op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> list[Shape]:
    """Check operands and attributes against the table; return the outputs' shapes.

    Raises:
        CompileError: naming the op, what was expected and what came.
    """
    entry = _op(op)
    inputs = list(inputs)
    if complete_attrs(op, attrs) != dict(attrs):
        raise CompileError(f"{op}: attributes {dict(attrs)} are incomplete or of the wrong type")
    if entry.variadic:
        if not inputs or any(value is None for value in inputs):
            raise CompileError(f"{op} takes one or more inputs, none of them absent")
        return entry.infer(inputs, attrs)
    if len(inputs) != len(entry.inputs):
        names = [each.name for each in entry.inputs]
        raise CompileError(f"{op} takes {len(names)} inputs {names}, got {len(inputs)}")
    for wanted, value in zip(entry.inputs, inputs, strict=True):
        if value is None and not wanted.optional:
            raise CompileError(f"{op} needs its input {wanted.name!r}")
        if value is not None and wanted.constant and not value.is_constant:
            raise CompileError(
                f"{op} needs a constant {wanted.name!r}, got the activation {value!r}"
            )
        if value is not None and value.is_constant:
            integers = value.array.dtype == np.int32
            if integers != wanted.index:
                raise CompileError(
                    f"{op}: {wanted.name} holds {value.array.dtype}, "
                    f"expected {'int32' if wanted.index else 'float32'}"
                )
    return entry.infer(inputs, attrs)


def expect_activations(op: str, inputs: Sequence[Value | None]) -> None:
    """Refuse a constant where the engine takes activations only.

    Raises:
        CompileError: naming the operand.
    """
    entry = _op(op)
    names = [each.name for each in entry.inputs]
    for index, value in enumerate(inputs):
        name = "input" if entry.variadic else names[index]
        if value is None or not value.is_constant or entry.mixed:
            continue
        if entry.variadic or not (entry.inputs[index].constant or op in ARITHMETIC):
            raise CompileError(f"{op}: {name} is the constant {value!r}, expected an activation")


def _op(name: str) -> Op:
    if name not in table:
        raise CompileError(f"unknown op {name!r}")
    return table[name]


def _convert(op: str, name: str, attr: Attr, value: Any) -> Any:
    if value is REQUIRED:
        raise CompileError(f"{op} needs the attribute {name!r}")
    kind, _, length = attr.type.partition("[")
    to = {"i": int, "f": float, "s": str}[kind]
    try:
        if not length:
            return to(value)
        items = [to(item) for item in value]
    except (TypeError, ValueError):
        raise CompileError(f"{op}: {name} is of type {attr.type}, got {value!r}") from None
    if length != "]" and len(items) != int(length[:-1]):
        raise CompileError(f"{op}: {name} has {length[:-1]} items, got {value!r}")
    return items


def define(
    name: str,
    inputs: str,
    infer: Callable,
    *,
    variadic: bool = False,
    engine: bool = True,
    mixed: bool = False,
    **attrs: tuple | str,
) -> None:
    """Enter an op; inputs as in "x weight:const bias:const?", a "?" marks an optional one.

    "index" instead of "const" makes it one of int32.
    """
    parsed = []
    for word in inputs.split():
        bare, _, flags = word.rstrip("?").partition(":")
        constant, index = flags in ("const", "index"), flags == "index"
        parsed.append(Input(bare, constant, optional=word.endswith("?"), index=index))
    types = {
        key: Attr(*((value,) if isinstance(value, str) else value)) for key, value in attrs.items()
    }
    table[name] = Op(name, tuple(parsed), types, infer, variadic, engine, mixed)


def expect(holds: bool, message: str) -> None:
    """Refuse what does not hold."""
    if not holds:
        raise CompileError(message)


def expect_map(op: str, name: str, value: Value) -> Shape:
    """Refuse what is no feature map; return its shape."""
    shape = value.shape
    expect(
        len(shape) == 4 and shape[0] == 1 and min(shape) > 0,
        f"{op}: {name} has shape {shape}, expected [1,C,H,W]",
    )
    return shape


def expect_shape(op: str, name: str, value: Value | None, shape: Shape) -> None:
    """Refuse another shape; absent values have none."""
    if value is not None:
        expect(value.shape == shape, f"{op}: {name} has shape {value.shape}, expected {shape}")
