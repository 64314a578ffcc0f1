"""ONNX to a graph: static shapes with a batch of 1, constants evaluated, functions resolved.

Nodes whose inputs are all constants (the shape arithmetic that exporters leave around a dynamic
batch, transposed weights) are evaluated here by the reference implementation of ONNX, so that the
graph holds activations only. What is not supported is refused by name, all of it in one message.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adfast.compiler.graph import Graph, Value
from adfast.errors import CompileError

try:
    import onnx
    import onnx.checker
    import onnx.inliner
    import onnx.reference
    from onnx import numpy_helper
except ImportError as error:  # pragma: no cover - depends on the installation
    raise CompileError(
        'reading ONNX needs the package onnx: pip install "adfast[compile]"'
    ) from error

OLDEST_OPSET = 13
MAX_LISTED = 20


class Unsupported(CompileError):
    """One node cannot be expressed in the engine's ops."""


class _Poisoned:
    """The output of a node that was refused."""


POISONED = _Poisoned()


def read_onnx(source: str | os.PathLike[str] | onnx.ModelProto) -> onnx.ModelProto:
    """Load and check a model, weights in separate files too.

    Raises:
        CompileError: the file is missing, is not ONNX, or its external data is missing or altered.
    """
    if isinstance(source, onnx.ModelProto):
        return source
    path = Path(source)
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise CompileError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf's DecodeError does not derive from a public class
        raise CompileError(f"{path} is not an ONNX file: {error}") from error
    if not model.graph.node and not model.graph.output:
        raise CompileError(f"{path} is not an ONNX file: it holds no graph")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise CompileError(
            f"{path}: the weights stored beside it cannot be read ({error}); keep the .onnx "
            "file and its data file together, or export with the weights inside"
        ) from error
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise CompileError(f"{path} is not a valid ONNX model: {error}") from error
    return model


def import_onnx(model: onnx.ModelProto) -> Graph:
    """Turn a model into a graph whose inputs and output roles carry the model's names.

    Raises:
        CompileError: listing every unsupported node with its path, or naming the dynamic dimension.
    """
    from adfast.compiler import onnx_ops

    opset = _check_opsets(model)
    functions = [(each.domain, each.name) for each in model.functions]
    keep = [each for each in functions if each[0] == "adfast" and each[1] in onnx_ops.FUNCTIONS]
    if len(keep) < len(functions):
        model = onnx.inliner.inline_selected_functions(model, keep, exclude=True)
    run = _Import(model, opset)
    run.constants_and_inputs()
    for node in model.graph.node:
        run.node(node, onnx_ops.find(node.domain, node.op_type))
    return run.finish(sorted(onnx_ops.SUPPORTED))


def _check_opsets(model: onnx.ModelProto) -> int:
    versions = {each.domain: each.version for each in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    if opset < OLDEST_OPSET:
        raise CompileError(
            f"the model uses ONNX opset {opset}, expected at least {OLDEST_OPSET}; export it "
            "again, or convert it with onnx.version_converter.convert_version(model, 18)"
        )
    if versions.get("adfast", 1) != 1:
        raise CompileError(
            f"the model uses version {versions['adfast']} of the adfast functions, this compiler "
            "knows version 1; update adfast"
        )
    return opset


class Call:
    """One ONNX node being imported: its operands, attributes, and where its results go."""

    def __init__(self, run: _Import, node: onnx.NodeProto):
        self.run = run
        self.node = node
        self.op = node.op_type
        self.path = node_path(node)
        # torch names a node module/function, adfast.export module.Op: the module says enough.
        self.name = self.path.rpartition("/")[0] or self.path.removesuffix(f".{self.op}")
        self.attrs = {each.name: _attribute(each) for each in node.attribute}

    def has(self, index: int) -> bool:
        """Whether the operand is given."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def constant(self, index: int, what: str) -> np.ndarray:
        """Return the operand as an array; refuse an activation."""
        found = self.run.known[self.node.input[index]] if self.has(index) else None
        if not isinstance(found, np.ndarray):
            raise Unsupported(f"its {what} is computed by the model; it must be a constant")
        return found

    def optional_constant(self, index: int, what: str) -> np.ndarray | None:
        """Return the operand as an array, or None when it is not given."""
        return self.constant(index, what) if self.has(index) else None

    def is_constant(self, index: int) -> bool:
        """Whether the operand is known now."""
        return isinstance(self.run.known[self.node.input[index]], np.ndarray)

    def value(self, index: int) -> Value:
        """Return the operand as a value of the graph."""
        return self.run.value(self.node.input[index])

    def values(self) -> list[Value]:
        """Return all operands as values of the graph."""
        return [self.value(index) for index in range(len(self.node.input))]

    def add(self, op: str, inputs: Sequence[Value | None], **attrs: Any) -> Value:
        """Add a node that has one output."""
        return self.add_all(op, inputs, **attrs)[0]

    def add_all(self, op: str, inputs: Sequence[Value | None], **attrs: Any) -> list[Value]:
        """Add a node and return all its outputs."""
        path = f"{self.path} ({self.op})"
        return self.run.graph.add(op, inputs, attrs, name=self.name, path=path)

    def new_constant(self, what: str, array: np.ndarray) -> Value:
        """Add a constant that is named after this node."""
        return self.run.graph.constant(f"{self.name}.{what}", array)

    def shaped(self, x: Value, shape: Sequence[int]) -> Value:
        """Return `x` itself, or a reshape of it."""
        return x if x.shape == tuple(shape) else self.add("reshape", [x], shape=list(shape))


class _Import:
    def __init__(self, model: onnx.ModelProto, opset: int):
        self.model = model
        self.opset = opset
        self.graph = Graph(model.graph.name or "model")
        # What each ONNX name stands for so far.
        self.known: dict[str, Value | np.ndarray | _Poisoned] = {}
        self.materialised: dict[str, Value] = {}
        self.refused: dict[str, list[str]] = {}

    def constants_and_inputs(self) -> None:
        for tensor in self.model.graph.initializer:
            self.known[tensor.name] = _array(tensor)
        if self.model.graph.sparse_initializer:
            raise CompileError("the model has sparse initializers; store them dense")
        for each in self.model.graph.input:
            if each.name not in self.known:
                self.known[each.name] = self.graph.input(each.name, _input_shape(each))

    def value(self, name: str) -> Value:
        found = self.known[name]
        if isinstance(found, Value):
            return found
        if name not in self.materialised:
            self.materialised[name] = self.graph.constant(name, found)
        return self.materialised[name]

    def node(self, node: onnx.NodeProto, handler: Any) -> None:
        operands = [self.known.get(name, POISONED) for name in node.input if name]
        results: Any = None
        domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
        try:
            if operands or node.op_type == "Constant":
                if all(isinstance(each, np.ndarray) for each in operands) and not domain:
                    results = self.evaluate(node)
            if results is None:
                if handler is None:
                    raise Unsupported("the engine has no such op")
                if not any(each is POISONED for each in operands):
                    results = self.handle(handler, node)
        except CompileError as error:
            # The path is in the heading of the message already.
            reason = str(error).removeprefix(f"{node_path(node)} ({node.op_type}): ")
            where = self.refused.setdefault(f"{domain}{node.op_type}: {reason}", [])
            where.append(node_path(node))
        if results is None:
            results = [POISONED] * len(node.output)
        elif isinstance(results, Value):
            results = [results]
        for name, result in zip(node.output, results, strict=False):
            if name:
                self.known[name] = result

    def handle(self, handler: Any, node: onnx.NodeProto) -> Any:
        try:
            return handler(Call(self, node))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise Unsupported(f"its inputs or attributes are malformed ({what})") from error

    def evaluate(self, node: onnx.NodeProto) -> list[np.ndarray]:
        if node.op_type == "Constant":
            for each in node.attribute:
                if each.type == onnx.AttributeProto.TENSOR:
                    return [_array(each.t)]
        feeds = {name: self.known[name] for name in node.input if name}
        try:
            evaluator = onnx.reference.ReferenceEvaluator(node, opsets={"": self.opset})
            return [np.asarray(each) for each in evaluator.run(None, feeds)]
        except Exception as error:
            raise Unsupported(f"its constant inputs cannot be evaluated: {error}") from error

    def finish(self, supported: Sequence[str]) -> Graph:
        if self.refused:
            lines = [
                f"  {what}\n    at {', '.join(where[:3])}"
                + (f" and {len(where) - 3} more" * (len(where) > 3))
                for what, where in list(self.refused.items())[:MAX_LISTED]
            ]
            more = len(self.refused) - len(lines)
            raise CompileError(
                "the model cannot be compiled:\n"
                + "\n".join(lines)
                + (f"\n  and {more} more" if more else "")
                + f"\nsupported ONNX ops: {', '.join(supported)}"
            )
        for each in self.model.graph.output:
            found = self.known.get(each.name)
            if not isinstance(found, Value):
                raise CompileError(f"output {each.name!r} does not depend on the model's input")
            self.graph.output(each.name, found)
        self.graph.check()
        return self.graph


def node_path(node: onnx.NodeProto) -> str:
    """Say where a node comes from: torch's module path, else the node's or its output's name."""
    for each in node.metadata_props:
        if each.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = [str(scope) for scope in ast.literal_eval(each.value)]
            except (ValueError, SyntaxError, TypeError):
                break
            if scopes:
                return "/".join(scope for scope in scopes[-2:] if scope)
    return node.name or next((name for name in node.output if name), node.op_type)


def _input_shape(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    tensor = info.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise CompileError(
            f"input {info.name!r} has elements of type {kind}, expected FLOAT; export in float32"
        )
    if not tensor.HasField("shape"):
        raise CompileError(
            f"input {info.name!r} has no shape; export with a fixed height and width"
        )
    shape: list[int] = []
    for axis, dim in enumerate(tensor.shape.dim):
        fixed = dim.HasField("dim_value") and dim.dim_value > 0
        if axis == 0 and (not fixed or dim.dim_value == 1):
            shape.append(1)
        elif axis == 0 and len(tensor.shape.dim) > 1:
            raise CompileError(
                f"input {info.name!r} has a fixed batch of {dim.dim_value}; "
                "export with a dynamic batch, or with a batch of 1"
            )
        elif not fixed:
            raise CompileError(
                f"dimension {axis} of input {info.name!r} is dynamic "
                f"({dim.dim_param or 'unnamed'}); only the batch may be: "
                "export with a fixed channel count, height and width"
            )
        else:
            shape.append(dim.dim_value)
    return tuple(shape)


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:
        raise CompileError(f"the constant {tensor.name!r} cannot be read: {error}") from error


def _attribute(each: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(each)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value
