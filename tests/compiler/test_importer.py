import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_models import (
    floats,
    imported_equals_onnx,
    ints,
    model,
    positive,
)

from adfast.compiler.importer import import_onnx, node_path, read_onnx
from adfast.errors import CompileError
from adfast.onnx_functions import append_functions

ort = pytest.importorskip("onnxruntime")

F = np.float32


def one_op(call, shape, out, **weights):
    return model(f"g (float[{shape}] x) => (float[{out}] y) {{ {call} }}", **weights)


CONV = {"w": floats(6, 4, 3, 3), "b": floats(6, seed=1)}

CASES = {
    "conv": one_op("y = Conv(x, w, b)", "N,4,7,9", "N,6,5,7", **CONV),
    "conv_strided": one_op(
        "y = Conv<strides=[2,1], pads=[1,0,2,1], dilations=[1,2]>(x, w, b)",
        "N,4,7,9",
        "N,6,a,b",
        **CONV,
    ),
    "conv_grouped": one_op(
        'y = Conv<group=2, auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
        "N,4,8,9",
        "N,6,4,5",
        w=floats(6, 2, 3, 3),
    ),
    "conv_same_lower": one_op(
        'y = Conv<auto_pad="SAME_LOWER">(x, w)', "N,4,5,5", "N,6,5,5", w=floats(6, 4, 2, 2)
    ),
    "conv_transpose": one_op(
        "y = ConvTranspose<pads=[1,0,2,1], dilations=[1,2]>(x, w, b)",
        "N,4,7,9",
        "N,6,6,12",
        w=floats(4, 6, 3, 3),
        b=floats(6, seed=1),
    ),
    "conv_transpose_grouped": one_op(
        "y = ConvTranspose<group=2>(x, w)", "N,4,3,5", "N,6,4,7", w=floats(4, 3, 2, 3)
    ),
    "max_pool": one_op(
        "y = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,1,1,0]>(x)", "N,3,7,9", "N,3,a,b"
    ),
    "max_pool_ceil": one_op(
        "y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)", "N,3,8,10", "N,3,a,b"
    ),
    "avg_pool": one_op(
        "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)",
        "N,3,7,9",
        "N,3,a,b",
    ),
    "avg_pool_padded": one_op(
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)",
        "N,3,7,9",
        "N,3,7,9",
    ),
    "global_pools": model(
        "g (float[N,3,5,6] x) => (float[N,3,1,1] a, float[N,3,1,1] b) "
        "{ a = GlobalAveragePool(x) b = GlobalMaxPool(x) }"
    ),
    "gemm": one_op(
        "y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b)",
        "N,5",
        "N,7",
        w=floats(7, 5),
        b=floats(7, seed=1),
    ),
    "matmul_bias": one_op(
        "p = MatMul(x, w) y = Add(b, p)", "N,3,5", "N,3,7", w=floats(5, 7), b=floats(7, seed=1)
    ),
    "transposed_weight": one_op(
        "t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)", "N,3,5", "N,3,7", w=floats(7, 5)
    ),
    "layer_norm": one_op(
        "y = LayerNormalization<epsilon=0.01>(x, s, b)",
        "N,3,5",
        "N,3,5",
        s=positive(5),
        b=floats(5),
    ),
    "batch_norm": one_op(
        "y = BatchNormalization<epsilon=0.1>(x, s, b, m, v)",
        "N,4,3,3",
        "N,4,3,3",
        s=positive(4),
        b=floats(4),
        m=floats(4, seed=2),
        v=positive(4, seed=3),
    ),
    "softmax": one_op("y = Softmax(x)", "N,3,5", "N,3,5"),
    "unary": one_op(
        "a = Abs(x) b = Sqrt(a) c = Exp(b) d = Neg(c) e = Tanh(d) f = Sigmoid(e) h = Erf(f) "
        "y = Relu(h)",
        "N,3,5",
        "N,3,5",
    ),
    "leaky_relu": one_op("y = LeakyRelu<alpha=0.2>(x)", "N,3,5", "N,3,5"),
    "clip": one_op(
        "y = Clip(x, low, high)", "N,3,5", "N,3,5", low=np.array(-0.5, F), high=np.array(0.25, F)
    ),
    "pow": one_op("p = Pow(x, two) y = Pow(p, half)", "N,3,5", "N,3,5", two=F(2), half=F(0.5)),
    "constant_first": one_op(
        "a = Sub(one, x) b = Mul(c, a) d = Max(c, b) y = Min(d, one, x)",
        "N,3,4,5",
        "N,3,4,5",
        one=np.array([1], F),
        c=floats(3, 1, 1),
    ),
    "whole_constant": one_op("y = Add(x, c)", "N,3,5", "N,3,5", c=floats(1, 3, 5)),
    "spread_constant": one_op("y = Mul(x, c)", "N,3,4", "N,3,4", c=floats(1, 3, 1)),
    "reduce_channels": one_op(
        "y = ReduceMean<keepdims=1>(x, axis)", "N,4,5,6", "N,1,5,6", axis=ints(1)
    ),
    "reduce_channels_away": one_op(
        "p = ReduceL2<keepdims=0>(x, axis) y = Unsqueeze(p, one)",
        "N,4,5,6",
        "N,1,5,6",
        axis=ints(1),
        one=ints(1),
    ),
    "reduce_all": one_op("y = ReduceMax<keepdims=0>(x, axes)", "N,4,5,6", "N", axes=ints(1, 2, 3)),
    "reduce_sides": one_op(
        "y = ReduceMean<keepdims=1>(x, axes)", "N,4,5,6", "N,4,1,1", axes=ints(-1, -2)
    ),
    "resize_sizes": one_op(
        'y = Resize<mode="linear">(x, , , s)', "N,2,5,6", "N,2,11,7", s=ints(1, 2, 11, 7)
    ),
    "resize_scales": one_op(
        'y = Resize<mode="linear">(x, , s)',
        "N,2,5,6",
        "N,2,10,24",
        s=np.array([1, 1, 2, 4], F),
    ),
    "resize_corners": one_op(
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , s)',
        "N,2,5,6",
        "N,2,11,7",
        s=ints(1, 2, 11, 7),
    ),
    "resize_nearest": one_op(
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric",'
        ' nearest_mode="floor">(x, , , s)',
        "N,2,5,6",
        "N,2,8,3",
        s=ints(1, 2, 8, 3),
    ),
    "resize_nearest_scales": one_op(
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric",'
        ' nearest_mode="floor">(x, , s)',
        "N,2,5,6",
        "N,2,10,18",
        s=np.array([1, 1, 2, 3], F),
    ),
    "split_concat": model(
        "g (float[N,6,5] x) => (float[N,6,5] y) "
        "{ a, b, c = Split<axis=1>(x, sizes) y = Concat<axis=1>(c, a, b) }",
        sizes=ints(1, 2, 3),
    ),
    "slice": one_op(
        "y = Slice(x, starts, ends, axes)",
        "N,6,5",
        "N,3,4",
        starts=ints(1, -4),
        ends=ints(4, 9223372036854775807),
        axes=ints(1, 2),
    ),
    "shape_arithmetic": one_op(
        """shape = Shape(x)
           zero = Constant<value_int=0>()
           batch = Gather<axis=0>(shape, zero)
           axis = Constant<value_ints=[0]>()
           batch1 = Unsqueeze(batch, axis)
           rest = Constant<value_ints=[3, 5]>()
           wanted = Concat<axis=0>(batch1, rest)
           r = Reshape(x, wanted)
           e = Expand(r, wanted)
           t = Transpose<perm=[0, 1, 2]>(e)
           q = Unsqueeze(t, axis)
           s = Squeeze(q, axis)
           y = Relu(s)""",
        "N,3,5",
        "N,3,5",
    ),
    "pad": one_op("y = Pad(x, p)", "N,3,4,5", "N,3,6,6", p=ints(0, 0, 1, 0, 0, 0, 1, 1)),
    "pad_axes": one_op(
        'y = Pad<mode="constant">(x, p, zero, axes)',
        "N,3,4,5",
        "N,3,5,7",
        p=ints(0, 1, 2, 0),
        zero=F(0),
        axes=ints(-1, 2),
    ),
    "pad_reflect": one_op(
        'y = Pad<mode="reflect">(x, p)', "N,3,4,5", "N,3,7,8", p=ints(0, 0, 3, 1, 0, 0, 0, 2)
    ),
    "squeeze_and_excite": one_op(
        "m = ReduceMean(x, axes) g = Sigmoid(m) a = Mul(x, g) y = Mul(g, a)",
        "N,3,4,5",
        "N,3,4,5",
        axes=ints(2, 3),
    ),
    "reduce_tokens": one_op(
        "m = ReduceMean<keepdims=1>(x, axis) y = Squeeze(m, axis)", "N,7,5", "N,5", axis=ints(1)
    ),
    "reduce_windows": one_op(
        "w = Reshape(x, s) p = Add(w, c) y = ReduceMax<keepdims=0>(p, axis)",
        "N,6,5",
        "3,5",
        s=ints(3, 2, 5),
        c=floats(2, 5),
        axis=ints(1),
    ),
    "depth_to_space": one_op("y = DepthToSpace<blocksize=2>(x)", "N,12,3,5", "N,3,6,10"),
    "class_token": one_op("y = Concat<axis=1>(c, x)", "N,3,5", "N,4,5", c=floats(1, 1, 5)),
    "inlined_function": onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
        g (float[N,3,5] x) => (float[N,3,5] y) { y = local.Twice(x) }
        <domain: "local", opset_import: ["" : 18]>
        Twice (a) => (b) { b = Add(a, a) }"""
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_imported_op_means_what_onnx_runtime_computes(name):
    imported_equals_onnx(CASES[name])


FUNCTIONS = {
    "window_gather": model(
        "g (float[N,7,5] x) => (float[3,2,5] y) { y = adfast.WindowGather(x, rows) }",
        rows=np.array([[0, 6], [3, 3], [5, 1]]),
    ),
    "gathered_constant": model(
        "g (float[N,7,5] x) => (float[2,7,5] y) "
        "{ c = adfast.WindowGather(table, rows) a = adfast.WindowGather(x, all) y = Add(a, c) }",
        table=floats(1, 3, 5),
        rows=np.arange(14).reshape(2, 7) % 3,
        all=np.arange(14).reshape(2, 7) % 7,
    ),
    "attention_of_windows": model(
        "g (float[N,6,8] x) => (float[2,3,8] y) "
        "{ w = Reshape(x, s) y = adfast.Attention<heads=2, scale=0.5>(w, w, w) }",
        s=ints(2, 3, 8),
    ),
    "gms_map": model(
        "g (float[N,3,7,9] a, float[N,3,7,9] b) => (float[N,1,7,9] y) "
        "{ y = adfast.GmsMap<c=0.0026>(a, b) }"
    ),
    **{
        f"calibrate_map_{mode}": model(
            f"g (float[N,1,7,9] x) => (float[N,1,7,9] y) "
            f'{{ y = adfast.CalibrateMap<mode="{mode}">(x, mean) }}',
            mean=floats(1, 1, 7, 9),
        )
        for mode in ("square", "absolute")
    },
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_imported_function_means_what_its_body_does(name):
    proto = FUNCTIONS[name]
    append_functions(proto)
    assert {"Conv", "Gather", "MatMul", "Sub"} & {n.op_type for n in proto.functions[0].node}
    imported_equals_onnx(proto)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("adfast.WindowGather(tokens, x)", "index"),
        ('adfast.CalibrateMap<mode="square">(x, x)', "mean map"),
    ],
)
def test_the_index_and_the_mean_map_must_be_constants(call, what):
    proto = model(f"g (float[N,1,5,5] x) => (y) {{ y = {call} }}", tokens=floats(1, 7, 5))
    append_functions(proto)
    with pytest.raises(CompileError, match=f"its {what} is computed by the model"):
        import_onnx(proto)


@pytest.mark.parametrize("legacy", [0, 1])
def test_halo_attention_is_one_node_and_means_its_body(legacy):
    call = f"adfast.HaloAttention<block=3, halo=1, heads=2, scale=0.6, legacy_mask={legacy}>"
    proto = model(
        "g (float[N,8,6,9] q, float[N,8,6,9] k, float[N,6,6,9] v) => (float[N,6,6,9] y) "
        f"{{ y = {call}(q, k, v, rows, columns) }}",
        rows=floats(9, 4),
        columns=floats(9, 4, seed=1),
    )
    append_functions(proto)
    graph = imported_equals_onnx(proto)
    assert [node.op for node in graph.nodes] == ["halo_attention"]


def test_shape_arithmetic_leaves_nothing_but_the_activations():
    graph = import_onnx(CASES["shape_arithmetic"])
    assert {node.op for node in graph.nodes} <= {"reshape", "transpose", "relu"}


REFUSED = {
    "unknown op": (
        one_op("y = Selu(x)", "N,3", "N,3"),
        r"Selu: the engine has no such op\n    at y",
    ),
    "unknown domain": (
        onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 18, "com.acme" : 1]>'
            "g (float[N,3] x) => (float[N,3] y) { y = com.acme.Magic(x) }"
        ),
        "com.acme.Magic: the engine has no such op",
    ),
    "product of activations": (one_op("y = MatMul(x, x)", "N,3,3", "N,3,3"), "must be a constant"),
    "conv1d": (one_op("y = Conv(x, w)", "N,3,9", "N,4,7", w=floats(4, 3, 3)), "only 2-D"),
    "computed weight": (
        one_op("w = Relu(x) y = Conv(x, w)", "1,1,3,3", "1,1,1,1"),
        "its weight is computed",
    ),
    "nearest, half pixels": (
        one_op("y = Resize<mode=\"nearest\">(x, , , s)", "N,1,2,2", "N,1,4,4", s=ints(1, 1, 4, 4)),
        "mode 'half_pixel' with nearest_mode 'round_prefer_floor'; only 'asymmetric' with 'floor'",
    ),
    "cubic": (
        one_op("y = Resize<mode=\"cubic\">(x, , , s)", "N,1,2,2", "N,1,4,4", s=ints(1, 1, 4, 4)),
        "only bilinear and nearest",
    ),
    "transposed convolution that upsamples": (
        one_op("y = ConvTranspose<strides=[2,2]>(x, w)", "N,4,3,3", "N,4,7,7",
               w=floats(4, 4, 3, 3)),
        r"ConvTranspose: strides \[2, 2\]; only 1 is available",
    ),
    "transposed convolution that crops": (
        one_op("y = ConvTranspose<pads=[3,3,3,3]>(x, w)", "N,4,9,9", "N,4,5,5",
               w=floats(4, 4, 3, 3)),
        "pads that crop",
    ),
    "transposed convolution to a shape": (
        one_op("y = ConvTranspose<output_shape=[5, 5]>(x, w)", "N,4,3,3", "N,4,5,5",
               w=floats(4, 4, 3, 3)),
        "auto_pad and output_shape are not available",
    ),
    "edge": (
        one_op("y = Pad<mode=\"edge\">(x, p)", "N,3,4,4", "N,3,5,5",
               p=ints(0, 0, 0, 0, 0, 0, 1, 1)),
        "mode 'edge' of shape \\(1, 3, 4, 4\\); only zeros or 'reflect' around",
    ),
    "reflection past the map": (
        one_op("y = Pad<mode=\"reflect\">(x, p)", "N,3,4,4", "N,3,8,4",
               p=ints(0, 0, 4, 0, 0, 0, 0, 0)),
        "reflection_pad2d: pads are \\[4, 0, 0, 0\\]",
    ),
    "antialias": (
        one_op("y = Resize<mode=\"linear\", antialias=1>(x, , , s)", "N,1,9,9", "N,1,4,4",
               s=ints(1, 1, 4, 4)),
        "antialias is not available",
    ),
    "training": (
        one_op("y = BatchNormalization<training_mode=1>(x, s, s, s, s)", "N,4,3,3", "N,4,3,3",
               s=positive(4)),
        "evaluation mode",
    ),
    "cube": (one_op("y = Pow(x, e)", "N,3", "N,3", e=F(3)), r"exponent 3.0; only 2, 1 and 0.5"),
    "reciprocal": (one_op("y = Div(e, x)", "N,3", "N,3", e=F(3)), "a constant divided by"),
    "broadcast": (
        model("g (float[N,4,5,5] x, float[N,1,5,5] z) => (float[N,4,5,5] y) { y = Mul(x, z) }"),
        "cannot be repeated",
    ),
    "constant map": (
        one_op("y = Mul(x, c)", "N,3,4,5", "N,3,4,5", c=floats(1, 1, 4, 1)),
        "a scalar or has one number for each channel, \\[1, 3, 1, 1\\]",
    ),
    "pad with ones": (
        one_op("y = Pad(x, p, one)", "N,3,4,4", "N,3,5,5", p=ints(0, 0, 0, 0, 0, 0, 1, 1),
               one=F(1)),
        "only zeros or 'reflect' around",
    ),
    "pad channels": (
        one_op("y = Pad(x, p)", "N,3,4,4", "N,4,4,4", p=ints(0, 0, 0, 0, 0, 1, 0, 0)),
        "only height and width",
    ),
    "malformed attribute": (
        one_op("y = MaxPool<strides=[1, 1]>(x)", "N,3,9,9", "N,4,7,7"),
        "its inputs or attributes are malformed",
    ),
    "depth to space": (
        one_op('y = DepthToSpace<blocksize=2, mode="CRD">(x)', "N,4,3,3", "N,1,6,6"),
        "mode 'CRD'; only DCR is available",
    ),
    "spatial softmax": (one_op("y = Softmax<axis=1>(x)", "N,3,4", "N,3,4"), "only the last axis"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_is_refused_by_name(name):
    proto, message = REFUSED[name]
    with pytest.raises(CompileError, match=message):
        import_onnx(proto)


def test_all_unsupported_ops_are_listed_at_once():
    proto = model(
        "g (float[N,3] x) => (float[N,3] y) "
        "{ a = Selu(x) b = Celu(a) c = Relu(b) d = Selu(c) y = Mish(d) }"
    )
    with pytest.raises(CompileError) as raised:
        import_onnx(proto)
    text = str(raised.value)
    assert "Selu: the engine has no such op\n    at a, d" in text
    assert "Celu" in text and "Mish" in text and "supported ONNX ops: Abs, Add" in text
    assert "Relu:" not in text


def test_the_path_is_the_module_that_torch_recorded():
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    assert node_path(node) == "y"
    entry = node.metadata_props.add()
    entry.key = "pkg.torch.onnx.name_scopes"
    entry.value = "['', 'agn.layer1', 'agn.layer1.0', 'conv']"
    assert node_path(node) == "agn.layer1.0/conv"
    entry.value = "not a list ("
    assert node_path(node) == "y"


INPUTS = {
    "dynamic": ("float[N,3,H,W]", "dimension 2 of input 'x' is dynamic \\(H\\)"),
    "batch of two": ("float[2,3,4,4]", "fixed batch of 2"),
    "double": ("double[N,3,4,4]", "type DOUBLE, expected FLOAT"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_must_be_static_float32(name):
    kind, message = INPUTS[name]
    with pytest.raises(CompileError, match=message):
        import_onnx(model(f"g ({kind} x) => ({kind} y) {{ y = Relu(x) }}"))


def test_an_old_opset_is_refused():
    proto = one_op("y = Relu(x)", "N,3", "N,3")
    proto.opset_import[0].version = 11
    with pytest.raises(CompileError, match="opset 11, expected at least 13"):
        import_onnx(proto)


def test_an_output_that_is_a_constant_is_refused():
    proto = model("g (float[N,3] x) => (float[1] y) { y = Constant<value_floats=[1.0]>() }")
    with pytest.raises(CompileError, match="does not depend on the model's input"):
        import_onnx(proto)


def test_files_that_are_not_onnx(tmp_path):
    with pytest.raises(CompileError, match="cannot read"):
        read_onnx(tmp_path / "absent.onnx")
    for content in (b"", b"hello, this is no model", bytes(range(256))):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        with pytest.raises(CompileError, match="is not an? "):
            read_onnx(path)


def test_missing_external_data(tmp_path):
    proto = one_op("y = MatMul(x, w)", "N,64", "N,64", w=floats(64, 64))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="model.data", size_threshold=0)
    assert import_onnx(read_onnx(path)).constants()[0].shape == (64, 64)
    (tmp_path / "model.data").unlink()
    with pytest.raises(CompileError, match="keep the .onnx file and its data file together"):
        read_onnx(path)


def test_an_invalid_graph_is_refused(tmp_path):
    node = helper.make_node("Relu", ["nowhere"], ["y"])
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "g", [], [info])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(CompileError, match="not a valid ONNX model"):
        read_onnx(path)
