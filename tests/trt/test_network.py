"""The network as TensorRT gets it: every op and every model, run by ONNX Runtime, types checked."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from adfast import _core, load
from adfast.compiler import reference
from adfast.compiler.graph import Graph, Node
from adfast.compiler.ops import table
from adfast.compiler.reader import graph_of
from adfast.compiler.writer import Golden, plan_fields, write_plan, write_test_plan
from adfast.errors import ArgumentError, CompileError
from adfast.tensorrt import builder
from adfast.tensorrt.emitter import PLUGIN_DOMAIN
from adfast.tensorrt.lowering import lowerings
from adfast.tensorrt.network import OPERATORS, PRECISIONS, ops_to_onnx, to_onnx
from adfast.tensorrt.target import export_network

sys.path.insert(0, str(Path(__file__).parent.parent / "ops"))
from cases import CASES, Case, act, const

# Of the largest value; in f32 resizing to odd sizes, and sums of many, round a little elsewhere.
TOLERANCE = {"f32": 1e-4, "f16": 3e-3}


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As it stands: fused into its int8 kernels, a network of quantised steps loses far more.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(model: onnx.ModelProto, inputs) -> dict[str, np.ndarray]:
    runtime = session(model)
    names = [output.name for output in runtime.get_outputs()]
    return dict(zip(names, runtime.run(names, inputs), strict=True))


def test_every_op_is_written():
    assert set(lowerings) == {name for name, op in table.items() if op.engine} - {"frame"}


@pytest.mark.parametrize("case", [case for case in CASES if not case.hot], ids=str)
def test_op(case):
    arrays = case.arrays()
    graph, inputs = case.graph(arrays)
    want = reference.run(graph, inputs)
    for precision, tolerance in TOLERANCE.items():
        got = run(ops_to_onnx(graph, precision), inputs)
        for role, expected in want.items():
            assert got[role].shape == expected.shape, role
            largest = max(np.abs(expected).max(), 1e-30)
            assert np.abs(got[role] - expected).max() <= tolerance * largest, (precision, role)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def elements(model: onnx.ModelProto) -> dict[str, int]:
    """Return the type of every value, as ONNX's own rules have it."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    found = {each.name: each.data_type for each in inferred.initializer}
    for each in (*inferred.input, *inferred.value_info, *inferred.output):
        found[each.name] = each.type.tensor_type.elem_type
    return found


@pytest.fixture(scope="module", params=["gtrans", "adtr", "intra", "saae", "haloae"])
def plan(request, plan_of_model):
    return plan_of_model(request.param)


@pytest.fixture(scope="module")
def graph(plan):
    return graph_of(_core.Plan(str(plan)))


def image_of(graph: Graph, frame: np.ndarray) -> np.ndarray:
    """Return what the engine's `frame` makes of a frame, as the network takes it."""
    node = next(node for node in graph.nodes if node.op == "frame")
    made = reference.evaluate(node, [frame])[0]
    return np.ascontiguousarray(made.transpose(0, 2, 3, 1), np.float32)


FRAME = np.random.default_rng(9).integers(0, 256, (45, 37, 3), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_models_answer_as_the_engine_does(plan, graph, precision):
    expected = load(plan, device="cpu", precision="f32").predict(FRAME)
    got = run(to_onnx(graph, precision), {"image": image_of(graph, FRAME)})
    peak = expected.network_map.max()
    tolerance = {"f32": 1e-4, "f16": 1e-2}[precision] * peak
    assert np.abs(got["map"][0, 0] - expected.network_map).max() <= tolerance
    assert abs(got["score"][0] - expected.score) <= tolerance


def test_models_in_int8(plan, graph, tmp_path):
    """Every step that may be quantised is, and the map is as good as that of the engine's int8."""
    quantised = graph.copy()
    engine = load(plan, device="cpu", precision="f32")
    names = [node.inputs[0].name for node in quantised.nodes if node.op in ("conv2d", "linear")]
    names = [name for name in names if name != "frame"]
    ranges = engine._observe(FRAME, dict.fromkeys(names, (0, 0)), 0)
    count = 0
    for node in quantised.nodes:
        if node.op not in ("conv2d", "linear") or node.inputs[0].name not in ranges:
            continue
        low, high = (float(end) for end in ranges[node.inputs[0].name][:2])
        low, high = min(low, 0.0), max(high, 1e-6)
        scale = (high - low) / 255
        node.attrs |= {"input_scale": scale, "input_zero": round(-low / scale)}
        count += node.op == "conv2d" or np.prod(node.inputs[0].shape[:-1]) >= 64
    model = to_onnx(quantised, "int8")
    # One for the operand, and one dequantising each for the operand and the weights.
    assert kinds(model).count("QuantizeLinear") == count > 0
    assert kinds(model).count("DequantizeLinear") == 2 * count
    found = elements(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = next(i for i in model.graph.initializer if i.name == node.input[2])
            assert zero.data_type == TensorProto.INT8
            assert not onnx.numpy_helper.to_array(zero).any()
            assert found[node.input[1]] == TensorProto.FLOAT16
    fields = plan_fields(model="m", name="n", resize=[1, 1], crop=[1, 1])
    write_plan(tmp_path / "int8.plan", quantised, fields, {}, Golden(), {}, {})
    ours = load(tmp_path / "int8.plan", device="cpu", precision="int8").predict(FRAME).network_map
    got = run(model, {"image": image_of(graph, FRAME)})["map"][0, 0]
    expected = engine.predict(FRAME).network_map
    alike = [np.corrcoef(each.ravel(), expected.ravel())[0, 1] for each in (got, ours)]
    # A bit less: TensorRT's levels are symmetric.
    assert alike[0] > alike[1] - 0.1 and alike[0] > 0.5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_models_are_strongly_typed(graph, precision):
    """Only the operators that TensorRT's parser takes, and products in the type that was asked."""
    if precision == "int8":
        with pytest.raises(CompileError, match="no quantisation"):
            to_onnx(graph, precision)
        return
    model = to_onnx(graph, precision)
    assert set(kinds(model)) <= OPERATORS
    assert {opset.domain for opset in model.opset_import} == {""}
    found = elements(model)
    narrow = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    for node in model.graph.node:
        types = {found[name] for name in node.input if name and found[name] in narrow.values()}
        assert len(types) <= 1 or node.op_type == "Cast", node.name
        if node.op_type == "Conv" and "prewitt" not in node.input[1]:
            assert found[node.input[0]] == narrow[precision], node.name
        if node.op_type in ("Softmax", "LayerNormalization"):
            assert found[node.input[0]] == TensorProto.FLOAT, node.name
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        assert all(side.dim_value > 0 for side in value.type.tensor_type.shape.dim)


def test_bf16_is_f16_with_other_digits(graph):
    """ONNX Runtime computes no bf16 here: node for node it is the graph that was run in f16."""
    half, brain = to_onnx(graph, "f16"), to_onnx(graph, "bf16")
    assert len(half.graph.node) == len(brain.graph.node)
    swapped = {TensorProto.FLOAT16: TensorProto.BFLOAT16}
    for a, b in zip(half.graph.node, brain.graph.node, strict=True):
        assert (a.op_type, a.input, a.output) == (b.op_type, b.input, b.output)
        for x, y in zip(a.attribute, b.attribute, strict=True):
            if a.op_type == "Cast":
                assert y.i == swapped.get(x.i, x.i)
            else:
                assert x == y
    for a, b in zip(half.graph.initializer, brain.graph.initializer, strict=True):
        assert b.data_type == swapped.get(a.data_type, a.data_type) and a.dims == b.dims
        x, y = (onnx.numpy_helper.to_array(each).astype(np.float64) for each in (a, b))
        assert (np.abs(x - y) <= np.abs(x) / 128 + 1e-7).all(), a.name


class AdfastHaloAttention(OpRun):
    """The plugin's node, as the compiler's reference has it."""

    op_domain = PLUGIN_DOMAIN

    def _run(self, q, k, v, rows, columns, **attrs):
        maps = [x.transpose(0, 3, 1, 2).astype(np.float64) for x in (q, k, v)]
        numbers = {key: int(attrs[key]) for key in ("block", "halo", "heads", "legacy_mask")}
        node = Node("halo_attention", [], numbers | {"scale": float(attrs["scale"])}, "halo")
        made = reference.evaluate(node, [*maps, rows, columns])[0]
        return (made.transpose(0, 2, 3, 1).astype(q.dtype),)


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.op == "halo_attention" and not case.hot], ids=str
)
def test_halo_attention_as_a_plugin(case, precision):
    arrays = case.arrays()
    graph, inputs = case.graph(arrays)
    model = ops_to_onnx(graph, precision, plugins=True)
    assert [node.domain for node in model.graph.node].count(PLUGIN_DOMAIN) == 1
    evaluator = ReferenceEvaluator(model, new_ops=[AdfastHaloAttention])
    got = evaluator.run(None, inputs)[0]
    want = reference.run(graph, inputs)["out0"]
    assert np.abs(got - want).max() <= TOLERANCE[precision] * np.abs(want).max()


def test_only_halo_attention_becomes_a_plugin(graph):
    wanted = sum(node.op == "halo_attention" for node in graph.nodes)
    model = to_onnx(graph, "f16", plugins=True)
    plugins = [node for node in model.graph.node if node.domain == PLUGIN_DOMAIN]
    assert len(plugins) == wanted
    assert {node.op_type for node in plugins} <= {builder.PLUGIN}
    assert not any(node.domain for node in to_onnx(graph, "f16").graph.node)


def test_the_same_plan_gives_the_same_bytes(graph):
    first, again = (to_onnx(graph, "f16").SerializeToString(deterministic=True) for _ in range(2))
    assert first == again


def test_maps_of_zeros_are_as_far_apart_as_the_engine_says():
    case = Case("score_map", (act(1, 3, 4, 5), act(1, 3, 4, 5)))
    arrays = [np.zeros((1, 3, 4, 5), np.float32), np.ones((1, 3, 4, 5), np.float32)]
    graph, inputs = case.graph(arrays)
    want = reference.run(graph, inputs)
    got = run(ops_to_onnx(graph, "f32"), inputs)
    assert got["out2"] == want["out2"] == 1


def test_weights_that_f16_does_not_hold_are_named():
    case = Case("conv2d", (act(1, 2, 3, 3), const(1, 2, 1, 1, low=7e4, high=8e4), None, None))
    graph, _ = case.graph(case.arrays())
    with pytest.raises(CompileError, match=r"conv2d: weight holds 7.*more than f16.*bf16"):
        ops_to_onnx(graph, "f16")
    ops_to_onnx(graph, "bf16")


def test_graphs_without_a_frame_are_refused(tmp_path):
    case = Case("relu", (act(1, 2, 3, 3),))
    graph, _ = case.graph(case.arrays())
    write_test_plan(tmp_path / "op.plan", graph)
    with pytest.raises(CompileError, match="takes no frame"):
        export_network(tmp_path / "op.plan", tmp_path / "op.onnx")
    with pytest.raises(CompileError, match="expected one of f16"):
        to_onnx(graph, "f64")


def test_the_file_of_a_plan(tiny_plan, tiny_int8_plan, tmp_path):
    assert export_network(tiny_plan, tmp_path / "a.onnx") == "f16"
    assert export_network(tiny_int8_plan, tmp_path / "b.onnx") == "int8"
    assert export_network(tiny_int8_plan, tmp_path / "c.onnx", "f32") == "f32"
    assert "QuantizeLinear" in kinds(onnx.load(tmp_path / "b.onnx"))
    assert "QuantizeLinear" not in kinds(onnx.load(tmp_path / "c.onnx"))
    with pytest.raises(ArgumentError, match="precision is 'f64'"):
        export_network(tiny_plan, tmp_path / "d.onnx", "f64")
    assert not (tmp_path / "d.onnx").exists()


def test_a_plans_graph_is_read_as_it_was_written(plan, graph, tmp_path):
    again = tmp_path / "again.plan"
    fields = plan_fields(model="m", name="n", resize=[9, 9], crop=[9, 9])
    write_plan(again, graph, fields, {}, Golden(), {}, {})
    first, second = _core.Plan(str(plan)), _core.Plan(str(again))
    for section in ("graph", "weights"):
        assert first.section(section) == second.section(section)
