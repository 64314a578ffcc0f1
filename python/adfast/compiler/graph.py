"""The compiler's graph: values, nodes and the checker that runs between passes.

A value is an activation (an input or a node's output) or a constant that carries its array. All
shapes are static and logical, as in ONNX; all elements are float32, but for constant indices, which
are int32. Nodes are kept in an order in which they can run. What an op takes, and the shapes it
gives, is written once, in `ops`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from adfast.compiler import ops
from adfast.errors import CompileError


class Value:
    """One tensor: `name`, `shape`, and `array` (float32 or int32) when it is a constant."""

    __slots__ = ("array", "name", "producer", "shape")

    def __init__(self, name: str, shape: Sequence[int], array: np.ndarray | None = None):
        self.name = name
        self.shape = tuple(int(dim) for dim in shape)
        self.array = array
        self.producer: Node | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the value carries its content."""
        return self.array is not None

    def __repr__(self) -> str:
        dims = ",".join(str(dim) for dim in self.shape)
        return f"{self.name}:const[{dims}]" if self.is_constant else f"%{self.name}[{dims}]"


class Node:
    """One operation. `path` says where it came from in the source model, for error messages."""

    __slots__ = ("attrs", "inputs", "name", "op", "outputs", "path", "removed")

    def __init__(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any],
        name: str,
        path: str = "",
    ):
        self.op = op
        self.inputs = list(inputs)
        self.attrs = dict(attrs)
        self.outputs: list[Value] = []
        self.name = name
        self.path = path or name
        self.removed = False

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    def __repr__(self) -> str:
        results = ", ".join(f"%{value.name}" for value in self.outputs)
        present = len(self.inputs)
        while present and self.inputs[present - 1] is None:
            present -= 1
        operands = ", ".join(
            "-" if value is None else _operand(value) for value in self.inputs[:present]
        )
        shown = ops.non_default_attrs(self.op, self.attrs)
        attrs = ", ".join(f"{key}={_attr_text(value)}" for key, value in shown.items())
        shapes = ", ".join(_dims(value.shape) for value in self.outputs)
        return (
            f"{results} = {self.op}({operands})"
            + (f" {{{attrs}}}" if attrs else "")
            + f" -> {shapes}"
        )


class Graph:
    """Nodes in running order, inputs in order, and outputs by role.

    Built by hand for tests::

        graph = Graph("relu")
        x = graph.input("x", (1, 8, 5, 7))
        (y,) = graph.add("relu", [x])
        graph.output("y", y)
        graph.check()
    """

    def __init__(self, name: str = "graph"):
        self.name = name
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.outputs: dict[str, Value] = {}
        self._names: set[str] = set()

    # Building

    def unique(self, name: str) -> str:
        """Return `name`, or `name` with a number when it is taken; and take it."""
        base, number = name or "v", 1
        name = base
        while name in self._names:
            number += 1
            name = f"{base}.{number}"
        self._names.add(name)
        return name

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """Add a float32 activation that the caller supplies."""
        value = Value(self.unique(name), shape)
        self.inputs.append(value)
        return value

    def constant(self, name: str, array: Any) -> Value:
        """Add a constant; anything numeric is converted to contiguous float32."""
        return self._constant(name, array, np.float32)

    def index(self, name: str, array: Any) -> Value:
        """Add a constant of int32, for an op that looks up rows.

        Raises:
            CompileError: the elements are not integers, or do not fit int32.
        """
        given = np.asarray(array)
        limits = np.iinfo(np.int32)
        if given.dtype.kind not in "iu" or (
            given.size and not (limits.min <= given.min() and given.max() <= limits.max)
        ):
            raise CompileError(
                f"index {name!r} holds {given.dtype}, expected integers of up to 32 bits"
            )
        return self._constant(name, given, np.int32)

    def _constant(self, name: str, array: Any, dtype: type) -> Value:
        # Not ascontiguousarray: that turns a scalar into a vector of one.
        array = np.array(array, dtype=dtype, order="C", copy=True)
        array.flags.writeable = False
        return Value(self.unique(name), array.shape, array)

    def add(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        path: str = "",
        before: Node | None = None,
    ) -> list[Value]:
        """Append a node (or insert it `before` another) and return its outputs, shapes inferred.

        Raises:
            CompileError: unknown op, wrong inputs, attributes or shapes.
        """
        node = Node(op, _pad(op, inputs), ops.complete_attrs(op, attrs or {}), name or op, path)
        for index, shape in enumerate(self._infer(node)):
            label = node.name if index == 0 else f"{node.name}.{index}"
            value = Value(self.unique(label), shape)
            value.producer = node
            node.outputs.append(value)
        node.name = node.output.name
        self.nodes.insert(len(self.nodes) if before is None else self.nodes.index(before), node)
        return node.outputs

    def output(self, role: str, value: Value) -> None:
        """Name a value as the graph's output `role`."""
        self.outputs[role] = value

    # Rewriting

    def rewrite(
        self,
        node: Node,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any] | None = None,
        *,
        like: Node | None = None,
    ) -> None:
        """Turn `node` into another op that makes the same outputs.

        `like` is the node that the new one goes on from (a convolution that takes its activation
        in): the two swap names, so that the convolution's name stays on what is left.
        """
        changed = Node(op, _pad(op, inputs), ops.complete_attrs(op, attrs or {}), node.name)
        changed.path = node.path if like is None else like.path
        shapes = self._infer(changed)
        made = [value.shape for value in node.outputs]
        if shapes != made:
            raise CompileError(f"{node.path}: {op} would make {shapes} in place of {made}")
        node.op, node.inputs, node.attrs, node.path = (
            op,
            changed.inputs,
            changed.attrs,
            changed.path,
        )
        if like is not None:
            node.name, like.name = like.name, node.name
            for mine, other in zip(node.outputs, like.outputs, strict=False):
                mine.name, other.name = other.name, mine.name

    def replace(self, old: Value, new: Value) -> None:
        """Let every user of `old`, graph outputs too, use `new`."""
        if old.shape != new.shape:
            raise CompileError(f"cannot replace {old!r} by {new!r}: the shapes differ")
        for node in self.nodes:
            node.inputs = [new if value is old else value for value in node.inputs]
        for role, value in self.outputs.items():
            if value is old:
                self.outputs[role] = new

    def remove(self, node: Node) -> None:
        """Take a node out; its outputs must be unused by then."""
        node.removed = True
        self.nodes.remove(node)

    def users(self, value: Value) -> list[Node]:
        """Return the nodes that read `value`, one entry for each reading operand."""
        return [node for node in self.nodes for operand in node.inputs if operand is value]

    def is_output(self, value: Value) -> bool:
        """Whether the caller gets `value`."""
        return any(value is output for output in self.outputs.values())

    def only_user(self, value: Value) -> Node | None:
        """Return the one node that reads `value`, or None when others or the caller read it too."""
        users = self.users(value)
        return users[0] if len(users) == 1 and not self.is_output(value) else None

    def producer(self, value: Value | None, *wanted: str) -> Node | None:
        """Return the node that makes `value` if its op is one of `wanted`; else None."""
        node = value.producer if value is not None else None
        return node if node is not None and node.op in wanted else None

    def constants(self) -> list[Value]:
        """List constants in the order of their first use."""
        used = [value for node in self.nodes for value in node.inputs if value is not None]
        used += self.outputs.values()
        return list(dict.fromkeys(value for value in used if value.is_constant))

    def values(self) -> list[Value]:
        """List inputs, then constants and activations in the order of their first use."""
        seen: dict[Value, None] = dict.fromkeys(self.inputs)
        for node in self.nodes:
            seen.update(dict.fromkeys(value for value in node.inputs if value is not None))
            seen.update(dict.fromkeys(node.outputs))
        seen.update(dict.fromkeys(self.outputs.values()))
        return list(seen)

    def copy(self) -> Graph:
        """Copy the graph; constant arrays are shared (they are read-only)."""
        other = Graph(self.name)
        other._names = set(self._names)
        twin = {value: Value(value.name, value.shape, value.array) for value in self.values()}
        other.inputs = [twin[value] for value in self.inputs]
        other.outputs = {role: twin[value] for role, value in self.outputs.items()}
        for node in self.nodes:
            inputs = [None if value is None else twin[value] for value in node.inputs]
            made = Node(node.op, inputs, node.attrs, node.name, node.path)
            made.outputs = [twin[value] for value in node.outputs]
            for value in made.outputs:
                value.producer = made
            other.nodes.append(made)
        return other

    # Checking and printing

    def check(self, *, engine_only: bool = False) -> None:
        """Raise CompileError unless the graph is well formed.

        Every value is made once, before it is read; names are unique; every node fits the op table
        and its outputs have the shapes the table gives; every output exists. With `engine_only`,
        ops that exist only inside the compiler are refused too.
        """
        known: set[Value] = set()
        names: dict[str, Value] = {}

        def define(value: Value, where: str) -> None:
            if value in known:
                raise CompileError(f"{where}: {value!r} is made twice")
            known.add(value)
            if names.setdefault(value.name, value) is not value:
                raise CompileError(f"{where}: two values are named {value.name!r}")

        for value in self.inputs:
            define(value, "graph input")
        for node in self.nodes:
            for value in node.inputs:
                if value is None or value in known:
                    continue
                if not value.is_constant:
                    raise CompileError(f"{node.path}: {node.op} reads {value!r} before it is made")
                define(value, node.path)
            if engine_only:
                self._check_for_engine(node)
            shapes = self._infer(node)
            if shapes != [value.shape for value in node.outputs]:
                raise CompileError(
                    f"{node.path}: {node.op} has outputs {node.outputs}, expected shapes {shapes}"
                )
            for value in node.outputs:
                if value.producer is not node:
                    raise CompileError(f"{node.path}: {value!r} does not know its node")
                define(value, node.path)
        if not self.outputs:
            raise CompileError(f"graph {self.name} has no outputs")
        for role, value in self.outputs.items():
            if value not in known:
                raise CompileError(f"output {role!r}: nothing makes {value!r}")

    def _check_for_engine(self, node: Node) -> None:
        if not ops.table[node.op].engine:
            raise CompileError(f"{node.path}: {node.op} is not an op of the engine")
        try:
            ops.expect_activations(node.op, node.inputs)
        except CompileError as error:
            raise CompileError(f"{node.path}: {error}") from None

    def _infer(self, node: Node) -> list[tuple[int, ...]]:
        try:
            return ops.infer(node.op, node.inputs, node.attrs)
        except CompileError as error:
            raise CompileError(f"{node.path}: {error}") from None

    def __str__(self) -> str:
        lines = [f"graph {self.name}"]
        lines += [f"  input %{value.name} {_dims(value.shape)}" for value in self.inputs]
        lines += [f"  {node!r}" for node in self.nodes]
        lines += [f"  output {role} = {_operand(value)}" for role, value in self.outputs.items()]
        return "\n".join(lines)


def _pad(op: str, inputs: Iterable[Value | None]) -> list[Value | None]:
    """Write absent trailing inputs out as None, so that an operand's index is its meaning."""
    inputs = list(inputs)
    return inputs + [None] * (ops.input_count(op) - len(inputs))


def _operand(value: Value) -> str:
    return f"{value.name}:const{_dims(value.shape)}" if value.is_constant else f"%{value.name}"


def _dims(shape: Sequence[int]) -> str:
    return "[" + ",".join(str(dim) for dim in shape) + "]"


def _attr_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_attr_text(item) for item in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
