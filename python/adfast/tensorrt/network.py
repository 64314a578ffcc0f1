"""A plan's network as a strongly typed ONNX model of standard operators, for TensorRT's parser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adfast.compiler.graph import Graph, Value
from adfast.errors import CompileError
from adfast.tensorrt.emitter import PLUGIN_DOMAIN, Emitter, Tensor, onnx_type
from adfast.tensorrt.lowering import lowerings

if TYPE_CHECKING:
    import onnx

#: What a network can be written in; int8 leaves in f16 what is not quantised.
PRECISIONS = ("f16", "bf16", "int8", "f32")
#: The newest that TensorRT 10.0 reads; ONNX has convolutions in bf16 since the later one only.
OPSET = 20
OPSET_BF16 = 22

#: The operators that are written, all of which TensorRT's parser takes in f32, f16 and bf16.
OPERATORS = frozenset(
    "Abs Add AveragePool Cast Concat Conv DepthToSpace DequantizeLinear Div Exp Gather Gelu "
    "Greater Identity LayerNormalization MatMul Max MaxPool Min Mul Neg Pad QuantizeLinear "
    "ReduceMax ReduceMean ReduceSum Relu Reshape Resize Sigmoid Slice Softmax Sqrt Sub Tanh "
    "Transpose Where".split()
)


def to_onnx(graph: Graph, precision: str, *, plugins: bool = False) -> onnx.ModelProto:
    """Write a plan's graph, from behind its frame on.

    The input `image` is float32 [1,H,W,3], resized, cropped and normalised: what the engine's
    `frame` makes of a camera's frame. Outputs are `map`, float32 [1,1,h,w], and `score`, float32
    [1]. All shapes are static.

    Args:
        graph: of a plan, as the compiler made it or `adfast.compiler.reader` read it.
        precision: one of `PRECISIONS`. "int8" needs a quantised graph; its ranges are made
            symmetric, as TensorRT knows no zero points.
        plugins: write halo attention as a node for the plugin in libadfast_trt.so.

    Raises:
        CompileError: onnx is missing, the graph takes no frame, a weight is too large for f16, or
            "int8" was asked of a graph that was never quantised.
    """
    if precision not in PRECISIONS:
        raise CompileError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    frames = [node for node in graph.nodes if node.op == "frame"]
    if len(frames) != 1 or graph.inputs:
        raise CompileError("the graph takes no frame: it is not a detector's")
    if precision == "int8" and not any(node.attrs.get("input_scale") for node in graph.nodes):
        raise CompileError(
            "precision int8: this plan has no quantisation; build it with --precision int8, or "
            "take f16 or bf16"
        )
    e = Emitter("f16" if precision == "int8" else precision, plugins)
    _, channels, height, width = frames[0].output.shape
    e.unique("image")
    image = Tensor("image", "f32", (1, height, width, channels))
    e.scope = "frame"
    known = {frames[0].output: e.transpose(image, (0, 3, 1, 2))}
    return _written(graph, e, known, [image], precision, skip=frames[0])


def ops_to_onnx(graph: Graph, precision: str, *, plugins: bool = False) -> onnx.ModelProto:
    """Write a graph of plain inputs and outputs, to test ops; their names are the graph's."""
    e = Emitter("f16" if precision == "int8" else precision, plugins)
    inputs = [Tensor(e.unique(value.name), "f32", value.shape) for value in graph.inputs]
    return _written(graph, e, dict(zip(graph.inputs, inputs, strict=True)), inputs, precision)


def _written(
    graph: Graph,
    e: Emitter,
    known: dict[Value, Tensor],
    inputs: list[Tensor],
    precision: str,
    skip=None,
) -> onnx.ModelProto:
    try:
        from onnx import checker, helper
    except ImportError as error:
        raise CompileError(f'this needs {error.name}; pip install "adfast[compile]"') from error
    for role in graph.outputs:
        e.unique(role)
    quantised = precision == "int8"
    for node in graph.nodes:
        if node is skip:
            continue
        lower = lowerings.get(node.op)
        if lower is None:
            raise CompileError(f"{node.path}: {node.op} cannot be written for TensorRT")
        attrs = dict(node.attrs)
        if "input_scale" in attrs and not quantised:
            attrs["input_scale"] = 0.0
        operands = [
            None if value is None else value.array if value.is_constant else known[value]
            for value in node.inputs
        ]
        e.scope = node.name
        known.update(zip(node.outputs, lower(e, *operands, **attrs), strict=True))
    outputs = []
    for role, value in graph.outputs.items():
        made = e.cast(known[value], "f32")
        if made.shape != value.shape:
            raise CompileError(f"output {role} became {made.shape}, expected {value.shape}")
        e.nodes.append(helper.make_node("Identity", [made.name], [role], name=role))
        outputs.append(helper.make_tensor_value_info(role, onnx_type("f32"), made.shape))
    taken = [helper.make_tensor_value_info(x.name, onnx_type(x.type), x.shape) for x in inputs]
    onnx_graph = helper.make_graph(e.nodes, graph.name, taken, outputs, initializer=e.initializers)
    opset = OPSET_BF16 if e.narrow == "bf16" else OPSET
    model = helper.make_model(
        onnx_graph,
        opset_imports=[
            helper.make_opsetid("", opset),
            *([helper.make_opsetid(PLUGIN_DOMAIN, 1)] if e.plugins else []),
        ],
        producer_name="adfast",
        ir_version=10,
    )
    # Types and shapes of every value, told by ONNX's own rules: they must be those given here.
    checker.check_model(model, full_check=True)
    return model
